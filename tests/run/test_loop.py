"""The driver: one run from config to report, in this process."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from maml_jax.errors import UsageError
from maml_jax.parallel import devices
from maml_jax.run import provenance
from maml_jax.run.build import build, optimizer_flops
from maml_jax.run.config import resolve
from maml_jax.run.lock import locked
from maml_jax.run.loop import evaluate_run, train, train_and_evaluate
from maml_jax.run.metrics import read_metrics
from maml_jax.run.progress import Progress
from maml_jax.run.workdir import load_run, open_workdir
from tests.run.runs import tiny_config
from tests.run.test_checkpoint import spoil


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


@pytest.mark.slow
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


def test_evaluation_of_a_run_repeats_and_takes_other_numbers(finished: pathlib.Path) -> None:
    record = json.loads((finished / "evaluation.json").read_text())
    np.testing.assert_array_equal(evaluate_run(finished, {})["loss"], record["loss"])
    other = evaluate_run(finished, {"shots": 20, "num_steps": 2})
    assert other["shots"] == 20
    assert len(other["loss"]) == 3
    with pytest.raises(UsageError, match=r"eval\.num_steps"):
        evaluate_run(finished, {"num_steps": -1})


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


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    workdir = copy(finished, tmp_path)
    expected = jax.tree.leaves(load_run(workdir)[1].meta_params)
    spoil(workdir / "checkpoints" / "60")
    assert int(load_run(workdir)[1].step) == 40
    assert (workdir / "checkpoints" / "60").is_dir()  # reading moves nothing
    train_and_evaluate(tiny_config(baselines=("pretrained",)), workdir)
    assert (workdir / "damaged_checkpoints" / "60").is_dir()
    for got, want in zip(jax.tree.leaves(load_run(workdir)[1].meta_params), expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_without_a_readable_checkpoint_there_is_one_line(
    finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    workdir = copy(finished, tmp_path)
    for checkpoint in (workdir / "checkpoints").iterdir():
        spoil(checkpoint)
    for use in (load_run, lambda folder: train_and_evaluate(tiny_config(), folder)):
        with pytest.raises(UsageError, match=r"none of the checkpoints \[60, 40\]"):
            use(workdir)
    assert len(list(read_metrics(workdir))) == 6
    shutil.rmtree(workdir / "checkpoints")
    with pytest.raises(UsageError, match="holds no checkpoint"):
        load_run(workdir)
    with pytest.raises(UsageError, match="holds no run"):
        load_run(tmp_path / "nothing")


def test_an_evaluation_with_another_config_leaves_the_checkpoints_alone(
    finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    workdir = copy(finished, tmp_path)
    config = (workdir / "config.json").read_text()
    (workdir / "config.json").write_text(config.replace('"adam"', '"sgd"'))
    with pytest.raises(UsageError, match=r"another config \(outer\.optimizer: adam -> sgd\)"):
        evaluate_run(workdir, {})
    (workdir / "config.json").write_text(config)
    assert int(load_run(workdir)[1].step) == 60


def test_two_processes_do_not_train_one_run(finished: pathlib.Path, tmp_path: pathlib.Path) -> None:
    workdir = copy(finished, tmp_path)
    before = (workdir / "metrics.jsonl").read_bytes()
    with locked(workdir):
        with pytest.raises(UsageError, match="in use by process"):
            train_and_evaluate(tiny_config(), workdir)
        assert int(load_run(workdir)[1].step) == 60
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_damaged_best_parameters_are_told_before_training(tmp_path: pathlib.Path) -> None:
    config = tiny_config(
        num_meta_steps=20,
        checkpoint__every=10,
        eval__validation_every=10,
        eval__validation_episodes=8,
        eval__num_steps=1,
    )
    experiment, workdir = build(config), tmp_path / "run"
    open_workdir(config, workdir)
    train(experiment, workdir)
    shutil.rmtree(workdir / "checkpoints" / "20")
    (best,) = (workdir / "best_checkpoints").iterdir()
    healthy = shutil.copytree(best, tmp_path / "healthy")
    spoil(best)

    def train_anyway(*_: object) -> None:
        raise AssertionError

    with pytest.raises(UsageError, match=f"none of the checkpoints .{best.name}. in .*best_"):
        train(experiment._replace(train=train_anyway), workdir)
    shutil.rmtree(best)
    healthy.rename(best)
    train(experiment, workdir)
    assert [path.name for path in (workdir / "best_checkpoints").iterdir()] == [best.name]


@pytest.mark.parametrize("spoilt", [None, b"", b"\xff", b'{"step": 1, "loss": 9}\n3\n{"step'])
def test_metrics_are_made_again_whatever_has_become_of_the_file(
    finished: pathlib.Path, tmp_path: pathlib.Path, spoilt: bytes | None
) -> None:
    workdir = copy(finished, tmp_path)
    path = workdir / "metrics.jsonl"
    before = path.read_bytes()
    path.unlink() if spoilt is None else path.write_bytes(spoilt)
    train(build(tiny_config(baselines=("pretrained",))), workdir)
    assert path.read_bytes() == before


def test_a_run_without_any_finite_update_ends_with_a_line(tmp_path: pathlib.Path) -> None:
    config = tiny_config(num_meta_steps=20, inner__step_size=1e30, outer__max_nonfinite=1_000)
    with pytest.raises(UsageError, match="none of the 20 updates was finite"):
        train_and_evaluate(config, tmp_path)
    with pytest.raises(UsageError, match="none of the 20 updates was finite"):
        train_and_evaluate(config, tmp_path)


def test_any_number_of_devices_can_evaluate_a_run(
    finished: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "available_devices", lambda: jax.devices()[:3])
    record = evaluate_run(finished, {"num_steps": 0, "num_episodes": 3})
    assert np.isfinite(record["loss"]).all()
    assert optimizer_flops(tiny_config()) == 0
    with pytest.raises(UsageError, match="does not divide over 3 devices"):
        train_and_evaluate(tiny_config(), finished)


def test_too_many_nonfinite_updates_stop_the_run_with_the_last_good_state(
    tmp_path: pathlib.Path,
) -> None:
    config = tiny_config(inner__step_size=1e30, outer__max_nonfinite=15)
    with pytest.raises(UsageError, match=r"outer\.max_nonfinite=15"):
        train_and_evaluate(config, tmp_path)
    experiment = build(config)
    restored = load_run(tmp_path)[1]
    assert int(restored.step) == int(restored.skipped) == 20
    for got, want in zip(
        jax.tree.leaves(restored.meta_params),
        jax.tree.leaves(experiment.init().meta_params),
        strict=True,
    ):
        np.testing.assert_array_equal(got, want)


def test_a_copy_without_git_can_name_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(provenance.COMMIT_VARIABLE, "abc1234")
    assert provenance.describe()["commit"] == "abc1234"


def test_a_machine_without_git_has_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(provenance.COMMIT_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert provenance.describe()["commit"] == "unknown"


def test_shares_of_finite_metrics_are_logged_below_1_and_vectors_are_named(
    tmp_path: pathlib.Path,
) -> None:
    progress = Progress(resolve(tiny_config()), tmp_path, 0, None)
    metrics = {"loss": 2.0, "finite_share/always": 1.0, "finite_share/sometimes": 0.5}
    progress.update(10, {name: np.float32(value) for name, value in metrics.items()}, dict)
    with pytest.raises(UsageError, match=r"metric 'all' has shape \(3,\); give a scalar"):
        progress.update(20, {"all": np.zeros(3)}, dict)
    progress.close()
    (line,) = read_metrics(tmp_path)
    shares = {name: value for name, value in line.items() if name.startswith("finite_share")}
    assert shares == {"finite_share/sometimes": 0.5}
