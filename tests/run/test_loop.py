"""The driver: one run from config to report, in this process."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from maml_jax.errors import UsageError
from maml_jax.run import provenance
from maml_jax.run.build import build
from maml_jax.run.checkpoint import Checkpoints
from maml_jax.run.loop import evaluate_run, train_and_evaluate
from maml_jax.run.metrics import MetricWriter, read_metrics
from maml_jax.run.report import write_report
from maml_jax.run.workdir import EVALUATED_WITH, load_run, open_workdir, write_evaluation
from tests.run.runs import tiny_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("finished") / "run"
    train_and_evaluate(tiny_config(baselines=("pretrained",)), workdir)
    return workdir


def copy(run: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(run, to / "run"))


def test_a_run_leaves_metrics_events_checkpoints_and_a_record(finished: pathlib.Path) -> None:
    assert [line["step"] for line in read_metrics(finished)] == [10, 20, 30, 40, 50, 60]
    assert list((finished / "tensorboard").glob("events*"))
    record = json.loads((finished / "evaluation.json").read_text())
    assert np.isfinite(record["loss"]).all()
    assert len(record["loss"]) == 11
    assert record["versions"]["jax"] == jax.__version__
    reference = json.loads((finished / "pretrained" / "evaluation.json").read_text())
    assert reference["algorithm"] == "pretrained"


def test_training_learns(tmp_path: pathlib.Path) -> None:
    config = tiny_config(
        num_meta_steps=1_000,
        steps_per_dispatch=1_000,
        outer__learning_rate=5e-3,
        meta_batch_size=16,
        model__hidden=(40, 40),
        eval__num_episodes=100,
        eval__shots=10,
    )
    record = train_and_evaluate(config, tmp_path)
    # Seeds 0 to 2 end at 0.31 to 0.44 of the first, and 0.11 to 0.20.
    # Medians: after more steps than it was trained for, a rare task diverges and spoils the mean.
    before, after_1, after_10 = (record["loss_median"][step] for step in (0, 1, 10))
    assert after_1 < 0.5 * before
    assert after_10 < 0.3 * before


def test_the_report_has_its_figures(finished: pathlib.Path) -> None:
    page = write_report(finished).read_text()
    for name in ("learning_curve", "loss_against_steps", "fitted_waves"):
        assert f'src="{name}.png"' in page
        assert (finished / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "pretrained" in page


def test_evaluation_of_a_run_repeats_and_takes_other_numbers(finished: pathlib.Path) -> None:
    record = json.loads((finished / "evaluation.json").read_text())
    np.testing.assert_array_equal(evaluate_run(finished, {})["loss"], record["loss"])
    other = evaluate_run(finished, {"shots": 20, "num_steps": 2})
    assert other["shots"] == 20
    assert len(other["loss"]) == 3
    with pytest.raises(UsageError, match=r"eval\.num_steps"):
        evaluate_run(finished, {"num_steps": -1})


def test_an_evaluation_with_other_settings_is_kept_beside_the_new_one(
    tmp_path: pathlib.Path,
) -> None:
    records = [{**dict.fromkeys(EVALUATED_WITH, 5), "loss": [loss]} for loss in (3.0, 2.0, 1.0)]
    records[0]["shots"] = 10
    for record in records:  # the last has the settings of the second, which it replaces
        write_evaluation(tmp_path, record)
    kept = {path.name: json.loads(path.read_text())["loss"] for path in tmp_path.iterdir()}
    assert kept == {"evaluation_1.json": [3.0], "evaluation.json": [1.0]}


def test_the_seed_changes_parameters_tasks_and_test_episodes() -> None:
    first, second = (build(tiny_config(seed=seed)) for seed in (0, 1))
    states = [experiment.init() for experiment in (first, second)]
    kernels = [state.meta_params.init["dense_0"]["kernel"] for state in states]
    assert not np.array_equal(*kernels)
    assert not np.array_equal(*(jax.random.key_data(state.key) for state in states))
    evaluations = [
        experiment.evaluate(states[0].meta_params).estimates["loss"].mean
        for experiment in (first, second)
    ]
    assert not np.array_equal(*evaluations)


def test_another_config_is_refused_and_nothing_overwritten(
    finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    workdir = copy(finished, tmp_path)
    before = (workdir / "config.json").read_text()
    with pytest.raises(UsageError, match=r"another config \(inner\.num_steps: 1 -> 2\)"):
        train_and_evaluate(tiny_config(inner__num_steps=2), workdir)
    assert (workdir / "config.json").read_text() == before


def test_an_unwritable_workdir_is_one_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        open_workdir(tiny_config(), tmp_path / "file" / "run")


def test_a_meta_batch_that_does_not_divide_over_devices_is_refused() -> None:
    with pytest.raises(UsageError, match="meta_batch_size=7 does not divide over 8 devices"):
        build(tiny_config(meta_batch_size=7))


def damage(checkpoint: pathlib.Path) -> None:
    for path in checkpoint.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    workdir = copy(finished, tmp_path)
    expected = jax.tree.leaves(load_run(workdir)[1].meta_params)
    damage(workdir / "checkpoints" / "60")
    _, state = load_run(workdir)
    assert int(state.step) == 40
    assert (workdir / "damaged_checkpoints" / "60").is_dir()
    train_and_evaluate(tiny_config(baselines=("pretrained",)), workdir)
    for got, want in zip(jax.tree.leaves(load_run(workdir)[1].meta_params), expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_without_a_readable_checkpoint_there_is_one_line(
    finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    workdir = copy(finished, tmp_path)
    for checkpoint in (workdir / "checkpoints").iterdir():
        damage(checkpoint)
    with pytest.raises(UsageError, match=r"none of the checkpoints \[60, 40\] can be read"):
        load_run(workdir)
    with pytest.raises(UsageError, match="holds no checkpoint"):
        load_run(workdir)
    with pytest.raises(UsageError, match="holds no run"):
        load_run(tmp_path / "nothing")


def test_too_many_nonfinite_updates_stop_the_run_with_the_last_good_state(
    tmp_path: pathlib.Path,
) -> None:
    config = tiny_config(inner__step_size=1e30, outer__max_nonfinite=15)
    with pytest.raises(UsageError, match=r"outer\.max_nonfinite=15"):
        train_and_evaluate(config, tmp_path)
    experiment = build(config)
    restored = Checkpoints(tmp_path).restore(experiment.init())
    assert restored is not None
    assert int(restored.step) == int(restored.skipped) == 20
    for got, want in zip(
        jax.tree.leaves(restored.meta_params),
        jax.tree.leaves(experiment.init().meta_params),
        strict=True,
    ):
        np.testing.assert_array_equal(got, want)


def test_metrics_after_the_resume_point_are_dropped(tmp_path: pathlib.Path) -> None:
    writer = MetricWriter(tmp_path, 0)
    for step in (10, 20, 30):
        writer.write(step, {"loss": float(step)})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')
    MetricWriter(tmp_path, 20).close()
    assert [line["step"] for line in read_metrics(tmp_path)] == [10, 20]


def test_a_copy_without_git_can_name_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(provenance.COMMIT_VARIABLE, "abc1234")
    assert provenance.describe()["commit"] == "abc1234"
