"""Rollouts, what counts of them, and advantages."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maml_jax.rl import Categorical, Gaussian, Navigation, Policy, Step, ToRollOut, roll_out
from maml_jax.rl.rollouts import Trajectories, advantages, discounted_sum, linear_baseline
from tests.rl.problems import KEY, POLICY, first_params

GOAL = jnp.array([0.1, 0.0])


@dataclasses.dataclass(frozen=True)
class Walk:
    """Ends after as many steps as the task says; what follows is not finite."""

    horizon: int = 5
    observation_size: int = 1
    action_size: int = 3
    discrete: bool = True

    def sample_task(self, key: Any) -> Any:
        return jax.random.randint(key, (), 1, 5)

    def reset(self, task: Any, key: Any) -> Any:
        return jnp.int32(0), jnp.zeros(1)

    def step(self, task: Any, state: Any, action: Any, key: Any) -> Step:
        late = jnp.where(state >= task, jnp.nan, 1.0)
        return Step(state + 1, late * jnp.ones(1), late * action, state + 1 >= task)


def test_what_follows_the_end_does_not_count() -> None:
    policy = Policy(POLICY.network.clone(outputs=3), discrete=True)
    params = policy.init(KEY, jnp.zeros(1))
    data = ToRollOut(jnp.int32(2), jnp.arange(8))
    made = jax.jit(lambda params: roll_out(Walk(), policy, params, data, KEY))(params)
    np.testing.assert_array_equal(made.mask, np.tile([1, 1, 0, 0, 0], (8, 1)))
    np.testing.assert_array_equal(made.rewards, made.actions * made.mask)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(made))
    assert len({tuple(of) for of in np.asarray(made.actions)}) > 1


def test_a_rollout_depends_on_its_index_alone_and_has_no_gradient() -> None:
    @jax.jit
    def make(params: Any, rollouts: Any) -> Any:
        return roll_out(Navigation(4), POLICY, params, ToRollOut(GOAL, rollouts), KEY)

    params = first_params()
    made, last = make(params, jnp.arange(3)), make(params, jnp.array([2]))
    np.testing.assert_allclose(made.rewards[2:], last.rewards, rtol=1e-5)
    moved = np.diff(made.observations, axis=1)
    np.testing.assert_allclose(moved, np.clip(0.1 * made.actions, -0.1, 0.1)[:, :-1], atol=1e-6)
    gradient = jax.grad(lambda params: make(params, jnp.arange(3)).rewards.sum())(params)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_the_point_is_rewarded_by_its_distance_and_ends_at_the_goal() -> None:
    step = Navigation().step
    near = step(GOAL, jnp.zeros(2), jnp.array([0.95, 5.0]), KEY)
    np.testing.assert_allclose(near.state, [0.095, 0.1], rtol=1e-6)
    np.testing.assert_allclose(near.reward, -np.hypot(0.005, 0.1), rtol=1e-5)
    assert not near.done
    assert step(GOAL, jnp.zeros(2), jnp.array([0.95, 0.05]), KEY).done


def trajectories() -> Trajectories:
    rng = np.random.default_rng(0)
    mask = np.ones((6, 7))
    mask[2, 4:] = mask[5, 2:] = 0
    observations = rng.normal(size=(6, 7, 2)) * mask[..., None]
    acts = Gaussian(*np.zeros((2, 6, 7, 1)))
    return Trajectories(observations, acts.mean, rng.normal(size=(6, 7)) * mask, mask, acts)


def test_the_baseline_is_the_least_squares_fit_of_steps_that_count() -> None:
    of = trajectories()
    targets = np.random.default_rng(1).normal(size=(6, 7))
    o, t, kept = of.observations, np.arange(7) / 100 + np.zeros((6, 1)), of.mask > 0
    columns = [o[..., 0], o[..., 1], o[..., 0] ** 2, o[..., 1] ** 2, t, t**2, t**3, t**0]
    x = np.stack(columns, -1)
    fit = np.where(kept, x @ np.linalg.lstsq(x[kept], targets[kept], rcond=None)[0], 0)
    with jax.enable_x64(True):
        fitted = linear_baseline(of, jnp.asarray(targets), ridge=1e-12)
    np.testing.assert_allclose(fitted, fit, atol=1e-5)
    with_ridge = linear_baseline(of, jnp.asarray(targets, jnp.float32))  # in float32, as in runs
    np.testing.assert_allclose(with_ridge, fit, atol=0.2)


@pytest.mark.parametrize("gae_lambda", [1.0, 0.5])
def test_advantages_are_sums_of_residuals(gae_lambda: float) -> None:
    of, discount = trajectories(), 0.9
    with jax.enable_x64(True):
        on_device = jax.tree.map(jnp.asarray, of)
        made = np.asarray(advantages(on_device, discount=discount, gae_lambda=gae_lambda))
        to_go = discounted_sum(on_device.rewards, discount)
        values = np.asarray(linear_baseline(on_device, to_go))
    expected = np.zeros((6, 8))
    for t in reversed(range(7)):
        following = values[:, t + 1] if t < 6 else 0
        delta = (of.rewards[:, t] + discount * following - values[:, t]) * of.mask[:, t]
        expected[:, t] = delta + discount * gae_lambda * expected[:, t + 1]
    kept = expected[:, :7][of.mask > 0]
    np.testing.assert_allclose(made[of.mask > 0], (kept - kept.mean()) / kept.std(), rtol=1e-6)
    assert not np.any(made[of.mask == 0])


def test_divergences_and_entropies_are_means_over_actions() -> None:
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        a, b = (Categorical(jnp.asarray(rng.normal(size=4))) for _ in range(2))
        every, rows = np.arange(4), [Categorical(jnp.tile(of.logits, (4, 1))) for of in (a, b)]
        of_a, of_b = (np.asarray(of.log_prob(every)) for of in rows)
        p = np.exp(of_a)
        assert p.sum() == pytest.approx(1)
        np.testing.assert_allclose([a.kl(b), a.entropy()], [p @ (of_a - of_b), -p @ of_a])
        first, second = (Gaussian(*jnp.asarray(rng.normal(size=(2, 1)))) for _ in range(2))
        grid = np.linspace(-30, 30, 20_001)[:, None]
        density = np.exp(first.log_prob(grid)) * (grid[1] - grid[0])
        ratio = first.log_prob(grid) - second.log_prob(grid)
        expected = [density @ ratio, -density @ first.log_prob(grid)]
        np.testing.assert_allclose([first.kl(second), first.entropy()], expected, rtol=1e-6)
