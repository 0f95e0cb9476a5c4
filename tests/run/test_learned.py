"""A run with learned lengths: its record, its report, the binary that shows them, a resume."""

import json
import pathlib
import signal
import subprocess
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import cli
from experiments.studies import known_lengths
from maml_jax import InnerLoop, MetaParams
from maml_jax.errors import UsageError
from maml_jax.inner.adapt import no_monitor
from maml_jax.params import with_paths
from maml_jax.run.build import Experiment, build
from maml_jax.run.evaluation import with_soft_gates
from maml_jax.run.loop import Interrupted, train, train_and_evaluate
from maml_jax.run.metrics import read_metrics
from maml_jax.run.report import write_report
from maml_jax.run.workdir import load_run, open_workdir
from maml_jax.types import PyTree
from tests.inner.problems import assert_bits_equal, assert_moves
from tests.run.runs import call_all, tiny_config
from tests.run.test_resume import assert_same_run

STEPS, EVAL_STEPS = 3, 4
TENSORS = {
    "dense_0/bias": "8",
    "dense_0/kernel": "1x8",
    "head/bias": "1",
    "head/kernel": "8x1",
}
FIGURES = (
    "Learned lengths",
    "Where the lengths are",
    "Who still adapts",
    "The compiled inner loop",
    "Compute and lengths in training",
    "Sparsity in training",
)


def adaptive_config() -> ConfigDict:
    """Lengths that move apart within 60 meta-steps, at a budget; learned rates and momenta."""
    return tiny_config(
        algorithm="adaptive_k",
        lengths__gate="ramp",
        inner__num_steps=STEPS,
        eval__num_steps=EVAL_STEPS,
        lengths__cost="compute",
        lengths__budget=0.4,
        lengths__dual_rate=0.02,
        inner__step_size=0.02,
        inner__step_sizes="tensor",
        inner__optimizer="heavy_ball",
        inner__momentum=0.5,
        inner__learn_optimizer="tensor",
        model__kernel_init="he",
        outer__lengths_learning_rate=0.2,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("finished") / "run"
    train_and_evaluate(adaptive_config(), workdir)
    return workdir


@pytest.fixture(scope="module")
def loaded(finished: pathlib.Path) -> tuple[Experiment, dict[str, np.ndarray]]:
    """The run's experiment and its hard lengths."""
    experiment, state = load_run(str(finished))
    return experiment, experiment.learned.lengths(state.meta_params)


def test_lengths_moved_apart_within_their_bounds(finished: pathlib.Path) -> None:
    """Else the tests below would compare constants."""
    _, state = load_run(finished)
    learned = np.concatenate([x.ravel() for x in jax.tree.leaves(state.meta_params.lengths)])
    assert learned.min() >= 0
    assert learned.max() <= STEPS
    assert set(np.round(learned)) == {0.0, 1.0, 2.0, 3.0}
    assert float(state.extras["dual"]) > 0


def test_the_record_has_hard_and_soft_results_and_what_they_cost(
    finished: pathlib.Path, loaded: tuple[Experiment, dict[str, np.ndarray]]
) -> None:
    record = json.loads((finished / "evaluation.json").read_text())
    experiment, lengths = loaded
    assert len(record["loss"]) == len(record["soft"]["loss"]) == EVAL_STEPS + 1
    assert record["loss"][0] == record["soft"]["loss"][0]
    assert record["loss"][-1] != record["soft"]["loss"][-1]
    compute = record["inner_compute"]
    assert len(compute) == EVAL_STEPS + 1
    assert compute[0] == 0
    assert np.all(np.diff(compute) >= 0)
    longest = max(int(value.max()) for value in lengths.values())
    assert compute[longest - 1] < compute[longest] == compute[-1]
    assert record["lengths"]["inner_compute"] == compute[-1]
    every = np.concatenate([value.ravel() for value in lengths.values()])
    assert record["lengths"]["length/mean"] == every.mean()
    assert record["lengths"]["length/max"] == every.max() <= STEPS
    share = compute[-1] / (STEPS * experiment.learned.costs.full_step)
    np.testing.assert_allclose(record["lengths"]["inner_compute_share"], share)


def test_hard_lengths_are_the_learned_ones_rounded(finished: pathlib.Path) -> None:
    experiment, state = load_run(finished)
    lengths = experiment.learned.lengths(state.meta_params)
    learned = state.meta_params.lengths
    assert set(lengths) == set(TENSORS) == set(with_paths(state.meta_params.init))
    for path, value in lengths.items():
        # m_k = clip(κ − k, 0, 1) is at least ½ for as many k as κ rounds to, halves upwards.
        np.testing.assert_array_equal(value, np.floor(np.asarray(learned[path]) + 0.5))


def test_every_line_of_the_log_has_the_lengths(finished: pathlib.Path) -> None:
    lines = list(read_metrics(finished))
    assert [line["step"] for line in lines] == [10, 20, 30, 40, 50, 60]
    names = {f"length/{name}" for name in ("mean", "p90", "p99", "max", "share_at_0")}
    names |= {f"sparsity/{path}" for path in TENSORS}
    names |= {"length/share_at_most", "inner_compute", "inner_compute_share", "cost", "dual"}
    for line in lines:
        assert names <= set(line)
        assert all(np.isfinite(line[name]) for name in names)
    assert len({line["length/mean"] for line in lines}) > 1
    last = json.loads((finished / "evaluation.json").read_text())["lengths"]
    assert last.items() <= lines[-1].items()


def test_the_report_has_the_figures_of_lengths(finished: pathlib.Path) -> None:
    page = write_report(finished).read_text()
    for name in FIGURES:
        assert f"<h2>{name}" in page
    assert "soft gates" in page
    assert "<td>momentum/head/bias</td>" in page


@pytest.mark.parametrize(
    ("settings", "learned"),
    [
        ({}, {}),
        ({"step_sizes": "scalar"}, {f"step_size/{path}": 0.01 for path in TENSORS}),
        ({"optimizer": "heavy_ball"}, {}),
        (
            {"optimizer": "heavy_ball", "learn_optimizer": "layer"},
            {"momentum/dense_0": 0.9, "momentum/head": 0.9},
        ),
        ({"optimizer": "barzilai_borwein", "learn_optimizer": "global"}, {"step": 0.01}),
        (
            {"optimizer": "meta_curvature", "learn_optimizer": "global"},
            {"matrices/dense_0/kernel/1": 0.0, "matrices/head/kernel/0": 0.0},
        ),
    ],
)
def test_what_is_learned_of_step_sizes_and_optimizer_is_told(
    settings: dict[str, str], learned: dict[str, float]
) -> None:
    config = tiny_config(
        algorithm="maml", **{f"inner__{key}": value for key, value in settings.items()}
    )
    experiment = build(config)
    told = experiment.learned.values(experiment.init().meta_params)
    assert bool(told) == bool(learned)
    for name, value in learned.items():
        assert told[name] == pytest.approx({"min": value, "mean": value, "max": value})


@pytest.fixture(scope="module")
def printed(finished: pathlib.Path) -> list[subprocess.CompletedProcess[str]]:
    """experiments.lengths with good and with bad caps."""
    arguments = ["lengths", f"--workdir={finished}"]
    return call_all([[*arguments, f"--caps={caps}"] for caps in ("0", "0,4")])


def test_lengths_prints_a_row_for_every_tensor(
    printed: list[subprocess.CompletedProcess[str]],
    finished: pathlib.Path,
    loaded: tuple[Experiment, dict[str, np.ndarray]],
) -> None:
    done = printed[0]
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.split("\n\n")[0].splitlines()
    assert head.split()[:2] == ["tensor", "shape"]
    assert f"at {STEPS}" in head
    cells = [row.split() for row in rows]
    assert {path: shape for path, shape, *_ in cells} == TENSORS
    _, lengths = loaded
    for path, _, low, mean, _, _, high, *_ in cells:
        value = lengths[path]
        assert [low, mean, high] == [f"{x:.2f}" for x in (value.min(), value.mean(), value.max())]
    compute = json.loads((finished / "evaluation.json").read_text())["inner_compute"][-1]
    assert f"{compute / 1e6:.4g} MFLOP" in done.stdout
    learned = json.loads((finished / "evaluation.json").read_text())["learned"]
    assert learned.keys() == {
        f"{of}/{path}" for of in ("step_size", "momentum") for path in TENSORS
    }
    assert learned["momentum/head/bias"]["mean"] != pytest.approx(0.5, abs=1e-3)
    assert f"momentum/head/bias: {learned['momentum/head/bias']['min']:.4g} to " in done.stdout


def test_lengths_shows_what_long_lengths_are_worth(
    printed: list[subprocess.CompletedProcess[str]],
    finished: pathlib.Path,
    loaded: tuple[Experiment, dict[str, np.ndarray]],
) -> None:
    done, wrong = printed
    head, *rows = done.stdout.split("\n\n")[-1].splitlines()
    assert head.split() == ["cap", "mean", "loss", "median"]
    (most, full, _), (cap, unadapted, _) = (row.split() for row in rows)
    assert (most, cap) == (str(STEPS), "0")
    experiment, _ = loaded
    _, state = load_run(finished)
    losses = experiment.evaluate(state.meta_params, "validation").estimates["loss"].mean
    assert (full, unadapted) == (f"{losses[-1]:.4g}", f"{losses[0]:.4g}")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert f"lengths cannot be cut to 4; use 0 to inner.num_steps={STEPS}" in wrong.stderr


def test_caps_are_whole_numbers() -> None:
    with pytest.raises(UsageError, match="--caps=0,x is not a list of whole numbers"):
        cli.whole_numbers(SimpleNamespace(name="caps", value=["0", "x"]))


class Killed(Exception):  # noqa: N818 - not an error
    """Stands for a kill: nothing is saved."""


@pytest.mark.slow
def test_killed_then_stopped_and_resumed_is_bit_for_bit(
    finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Lengths, their optimizer's state and the dual variable too."""
    config = adaptive_config()
    experiment = build(config)
    workdir = tmp_path / "run"
    open_workdir(config, workdir)

    def killed(state, number):
        if int(state.step) == 30:
            raise Killed
        return experiment.train(state, number)

    def stopped(state, number):
        if int(state.step) == 40:
            signal.raise_signal(signal.SIGTERM)
        return experiment.train(state, number)

    def stopped_in_the_last_dispatch(state, number):
        if int(state.step) == 50:
            signal.raise_signal(signal.SIGTERM)
        return experiment.train(state, number)

    with pytest.raises(Killed):
        train(experiment._replace(train=killed), workdir)
    assert int(load_run(workdir)[1].step) == 20
    with pytest.raises(Interrupted):
        train(experiment._replace(train=stopped), workdir)
    assert int(load_run(workdir)[1].step) == 50
    with pytest.raises(Interrupted, match="stopped at meta-step 60"):
        train(experiment._replace(train=stopped_in_the_last_dispatch), workdir)
    train_and_evaluate(config, workdir)
    assert_same_run(workdir, finished)


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["ramp", "straight_through"])
def test_lengths_find_the_best_k_of_quadratics(gate: str) -> None:
    problem = known_lengths.make_problem(jax.random.key(3), 40)
    learned = known_lengths.learn(problem, gate, start=10.0, cost=0.02, num_steps=600)
    found = known_lengths.compare(problem, learned, 0.02)
    assert found["coordinates"] >= 35
    assert found["share_within_1"] >= 0.95
    assert found["mean_error"] < 0.5


def test_soft_evaluation_has_the_noise_of_training() -> None:
    def adapted(gate: str, task: int) -> PyTree:
        experiment = build(tiny_config(algorithm="adaptive_k", lengths__gate=gate))
        gates, params = experiment.learned.gates, {"w": jnp.zeros(3)}
        inner_loop = InnerLoop(lambda params, support, key: (params["w"].sum(), ()), num_steps=1)
        adapt = with_soft_gates(inner_loop, gates, 1.0)
        meta_params = MetaParams(params, gates.init(params, 0.5, jax.random.key(0)), 1.0)
        return adapt(meta_params, None, jax.random.key(task), monitor=no_monitor).params["w"]

    assert_bits_equal(adapted("ramp", 1), adapted("ramp", 2))
    assert np.all(adapted("hard_concrete", 1) != adapted("hard_concrete", 2))


def test_lengths_wait_until_they_are_learned() -> None:
    config = tiny_config(
        algorithm="adaptive_k",
        inner__num_steps=3,
        lengths__initial_length=2.0,
        lengths__gate="ramp",
    )
    config.outer.lengths_from = 10
    experiment = build(config)
    state = experiment.init()
    first = jax.tree.map(np.array, state.meta_params)  # a dispatch takes the state
    state, _ = experiment.train(state, 10)
    assert_bits_equal(state.meta_params.lengths, first.lengths)
    assert_moves(jax.tree.map(jnp.subtract, state.meta_params.init, first.init))
    state, _ = experiment.train(state, 10)
    assert_moves(jax.tree.map(jnp.subtract, state.meta_params.lengths, first.lengths))
