"""Runs whose inner loop is compiled for its learned lengths: at test, pruned, and in training."""

import json
import pathlib
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maml_jax.errors import UsageError
from maml_jax.lengths import Schedule
from maml_jax.run.build import Experiment, build
from maml_jax.run.config import resolve
from maml_jax.run.loop import _next_stop, evaluate_run, train_and_evaluate
from maml_jax.run.pruning import (
    FILE,
    Pruned,
    prune,
    prune_schedule,
    read_schedule,
    schedule_maker,
    write_schedule,
)
from maml_jax.run.workdir import load_run
from tests.inner.problems import assert_bits_equal, assert_close
from tests.run.runs import call_all, tiny_config

TINY = {
    "algorithm": "adaptive_k",
    "inner__num_steps": 3,
    "inner__step_size": 0.02,
    "eval__num_steps": 4,
    "outer__lengths_learning_rate": 0.2,
    "num_meta_steps": 8,
    "steps_per_dispatch": 8,
    "checkpoint__every": 8,
}


def trained(**changes: Any) -> tuple[Experiment, Any]:
    experiment = build(tiny_config(**TINY | changes))
    return experiment, experiment.train(experiment.init(), 4)[0]


@pytest.mark.parametrize(("share", "expected"), [(1.0, [10, 20, 30]), (0.5, [10, 15, 20, 30])])
def test_a_dispatch_ends_where_lengths_are_frozen(share: float, expected: list[int]) -> None:
    changes = TINY | {"num_meta_steps": 30, "steps_per_dispatch": 10, "lengths__freeze_at": share}
    spec, step, ends = resolve(tiny_config(**changes)), 0, list[int]()
    while step < spec.num_meta_steps:
        step = _next_stop(step, spec)
        ends.append(step)
    assert ends == expected


@pytest.mark.slow
def test_frozen_lengths_stay_and_the_rest_goes_on() -> None:
    experiment, frozen = trained(lengths__freeze_at=0.5, inner__step_sizes="tensor")
    before = jax.device_get(frozen.meta_params)
    middle, metrics = experiment.train(frozen, 2)
    middle = jax.device_get(middle)  # a train loop donates its state
    after = middle.meta_params
    assert "cost" not in metrics
    assert_bits_equal(after.lengths, before.lengths)
    for field in ("init", "step_sizes"):
        for old, new in zip(
            *map(jax.tree.leaves, (getattr(before, field), getattr(after, field))), strict=True
        ):
            assert np.abs(new - old).max() > 0
    resumed = build(
        tiny_config(**TINY | {"lengths__freeze_at": 0.5, "inner__step_sizes": "tensor"})
    )
    on = [of.train(jax.tree.map(jnp.array, middle), 2)[0] for of in (experiment, resumed)]
    assert_bits_equal(*(of.meta_params for of in on))


@pytest.mark.slow
def test_a_frozen_loop_learns_what_the_masked_one_does() -> None:
    """The same meta-gradient: as a run whose lengths no longer change."""
    experiment, state = trained(lengths__freeze_at=0.5)
    state = jax.device_get(state)
    schedule = experiment.learned.schedule(state.meta_params, 3)
    assert schedule is not None
    assert schedule.most > 0
    still = build(tiny_config(**TINY | {"outer__lengths_learning_rate": 1e-30}))
    compiled, masked = (
        of.train(jax.tree.map(jnp.array, state), 1)[0].meta_params for of in (experiment, still)
    )
    assert_close(compiled.init, masked.init, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("schedules") / "run"
    train_and_evaluate(tiny_config(**TINY), workdir)
    return workdir


@pytest.mark.slow
def test_evaluation_takes_the_schedule(finished: pathlib.Path) -> None:
    compiled, masked = (evaluate_run(finished, {}, None, of) for of in ("compiled", "masked"))
    assert (compiled["schedule"], masked["schedule"]) == ("compiled", "masked")
    np.testing.assert_allclose(compiled["loss"], masked["loss"], rtol=1e-5)
    assert compiled["inner_compute"] == masked["inner_compute"]
    with pytest.raises(UsageError, match="has no pruned schedule; make it with"):
        evaluate_run(finished, {}, None, "pruned")


def test_a_run_is_pruned_and_evaluated(finished: pathlib.Path) -> None:
    shown, evaluated = call_all(
        [
            ["lengths", f"--workdir={finished}", "--prune=20"],
            ["evaluate", f"--workdir={finished}", "--schedule=pruned"],
        ]
    )
    assert shown.returncode == evaluated.returncode == 0, shown.stderr + evaluated.stderr
    assert "pruned schedule, C " in shown.stdout
    assert "adapting to one task: masked " in shown.stdout
    record = json.loads((finished / FILE).read_text())
    assert record["drop"] <= 20
    assert record["compute"] <= record["compute_before"]
    last = json.loads(evaluated.stdout.splitlines()[-1])
    assert last["inner_compute"][-1] == record["compute"]
    with pytest.raises(UsageError, match="is of meta-step 8, the run stands at 9"):
        read_schedule(finished, 9)


def test_the_search_finds_the_cheapest_allowed_schedule() -> None:
    worth = {"a": [0.0, 0.0, 0.1, 0.1], "b": [0.0, 1.0, 1.05, 1.3]}  # of 0, 1, 2 and 3 steps
    price = {"a": 100.0, "b": 10.0}
    seen: list[dict[str, int]] = []

    def score(steps: dict[str, int]) -> np.ndarray:
        seen.append(steps)
        return np.array([sum(worth[p][s] for p, s in steps.items()) + noise for noise in (0, 1, 5)])

    def compute(steps: dict[str, int]) -> float:
        return sum(price[path] * number for path, number in steps.items())

    pruned = prune_schedule(score, compute, Schedule({"a": 3, "b": 3}), tolerance=0.3)
    assert pruned.schedule.last_steps == {"a": 0, "b": 3}
    assert (pruned.compute, pruned.compute_before) == (30.0, 330.0)
    assert pruned.drop == pytest.approx(0.1)
    assert pruned.drop_ci95 == pytest.approx(0.0)
    more = prune_schedule(score, compute, Schedule({"a": 3, "b": 3}), tolerance=0.4)
    assert more.schedule.last_steps == {"a": 0, "b": 2}
    assert len(seen) < 30


def test_only_the_parameters_that_were_pruned_take_the_pruned_schedule(
    tmp_path: pathlib.Path,
) -> None:
    schedule = Schedule({"a": 2})
    write_schedule(tmp_path, Pruned(schedule, 0.0, 0.0, 1.0, 2.0), {"meta_step": 8})
    newest, selected = (SimpleNamespace(step=step) for step in (8, 4))
    make = schedule_maker("pruned", tmp_path, last=8)
    assert make is not None
    assert (make(newest), make(selected)) == (schedule, None)
    assert schedule_maker("compiled", tmp_path, last=8) is None


def test_what_cannot_be_pruned_is_refused(finished: pathlib.Path, tmp_path: pathlib.Path) -> None:
    experiment, state = load_run(finished)
    with pytest.raises(UsageError, match="--prune=-1 is not allowed"):
        prune(experiment, state.meta_params, -1)
    plain = build(tiny_config(num_meta_steps=1))
    with pytest.raises(UsageError, match="learns no lengths to prune"):
        prune(plain, plain.init().meta_params, 0.2)
    pruned = prune(experiment, state.meta_params, 5.0)
    write_schedule(tmp_path, pruned, {"meta_step": 8})
    assert read_schedule(tmp_path, 8) == pruned.schedule
