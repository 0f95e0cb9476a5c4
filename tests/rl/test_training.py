"""Training on several devices, and tasks that go wrong."""

import dataclasses
from functools import cache
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maml_jax import TrainStep, init_state, make_train_loop, outer_chain
from maml_jax.rl import Navigation, Step, trpo
from tests.inner.problems import float64  # noqa: F401, a fixture
from tests.rl.problems import ENVIRONMENT, KEY, fresh_meta_params, make_objective, sample

TASKS = 4


@dataclasses.dataclass(frozen=True)
class Broken(Navigation):
    """Rewards of goals to the right are not finite."""

    def step(self, goal: Any, position: Any, action: Any, key: Any) -> Step:
        step = super().step(goal, position, action, key)
        return step._replace(reward=jnp.where(goal[0] > 0, jnp.nan, step.reward))


def with_environment(objective: Any, environment: Any) -> Any:
    support, query = (
        dataclasses.replace(loss, environment=environment)
        for loss in (objective.inner_loop.loss, objective.query_loss)
    )
    loop = dataclasses.replace(objective.inner_loop, loss=support)
    return dataclasses.replace(objective, inner_loop=loop, query_loss=query)


@cache
def trained(devices: int, environment: Any = ENVIRONMENT) -> Any:
    objective = with_environment(make_objective(steps=1), environment)
    others = outer_chain({"step_sizes": optax.sgd(0.1)})
    outer = trpo(others, cg_steps=3)
    step = TrainStep(sample, objective, outer, record=True, learned=("init", "step_sizes"))
    train = make_train_loop(step, meta_batch_size=TASKS, devices=jax.devices()[:devices])
    return jax.device_get(train(init_state(fresh_meta_params(), outer, KEY), 2))


@pytest.mark.usefixtures("float64")
@pytest.mark.slow
def test_any_number_of_devices_gives_the_same() -> None:
    start = fresh_meta_params()
    state, metrics = trained(1)
    assert metrics["accepted"] > 0
    assert metrics["gain"] > 0
    for field in ("init", "step_sizes"):
        moved = jax.tree.map(
            lambda a, b: np.any(a != b), getattr(state.meta_params, field), getattr(start, field)
        )
        assert any(jax.tree.leaves(moved))
    others, of_others = trained(4)
    chex.assert_trees_all_close(
        (others.meta_params, of_others), (state.meta_params, metrics), rtol=1e-6, atol=1e-9
    )


@pytest.mark.usefixtures("float64")
@pytest.mark.slow
def test_tasks_whose_returns_are_not_finite_are_left_out_and_counted() -> None:
    state, metrics = trained(2, Broken(horizon=6))
    assert 0 < metrics["nonfinite_tasks"] < 2 * TASKS
    assert metrics["accepted"] > 0
    assert state.skipped == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.meta_params))


def test_recording_says_what_it_lacks() -> None:
    objective = make_objective(steps=1)
    arguments = fresh_meta_params(), sample(KEY), KEY, jnp.int32(0)
    plain = dataclasses.replace(objective, query_loss=lambda params, data, key: (0.0, {}))
    with pytest.raises(ValueError, match="query_loss makes no data to record"):
        plain.record(*arguments)
    weighted = dataclasses.replace(objective, step_weights=lambda step: jnp.ones(1))
    with pytest.raises(ValueError, match="step_weights need data for every step"):
        weighted.record(*arguments)
