"""Rollouts of a policy, and the advantages of their actions.

Axis letters: N rollouts, H horizon, o size of an observation, a size of an action.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from maml_jax.rl.environments import Environment
from maml_jax.rl.policy import Distribution, Policy
from maml_jax.types import Array, Params, PyTree


class Trajectories(NamedTuple):
    """Rollouts of one task by one policy; constants of every derivative."""

    observations: Array  # [N, H, o]
    actions: Array  # [N, H, a], or [N, H] of discrete actions
    rewards: Array  # [N, H], 0 after the end
    mask: Array  # [N, H], 1 up to the last step, 0 after it
    acted: Distribution  # [N, H, a], from which the actions were drawn

    @property
    def returns(self) -> Array:
        """Undiscounted sums [N] of the rewards."""
        return jnp.sum(self.rewards, -1)


class ToRollOut(NamedTuple):
    """A task of which a loss makes its own data: rollout i is made with fold_in(key, i)."""

    task: PyTree
    rollouts: Array  # [N], their indices


def roll_out(
    environment: Environment,
    policy: Policy,
    params: Params,
    data: ToRollOut,
    key: Array,
    *,
    horizon: int | None = None,
    with_task: bool = False,
) -> Trajectories:
    """Rollouts under params; no gradient passes, neither to params nor through the dynamics.

    Args:
      environment: its functions.
      policy: the policy.
      params: of the policy.
      data: the task.
      key: [], of all rollouts.
      horizon: H; None takes that of the environment.
      with_task: whether the policy also sees the task, as an oracle does.
    """
    steps = environment.horizon if horizon is None else horizon
    params = jax.lax.stop_gradient(params)

    def seen(observation: Array, alive: Array) -> Array:
        observation = jnp.where(alive, observation, 0)  # what follows the end may be anything
        return see_task(observation, data.task) if with_task else observation

    def one(index: Array) -> Trajectories:
        reset_key, *keys = jax.random.split(jax.random.fold_in(key, index), 3)
        first: PyTree = (*environment.reset(data.task, reset_key), jnp.array(True))

        def step(carry: PyTree, keys: tuple[Array, Array]) -> tuple[PyTree, Trajectories]:
            state, observation, alive = carry
            observed = seen(observation, alive)
            acted = policy(params, observed)
            action = acted.sample(keys[0])
            done = environment.step(data.task, state, action, keys[1])
            reward = jnp.where(alive, done.reward, 0)
            taken = Trajectories(observed, action, reward, alive.astype(reward.dtype), acted)
            return (done.state, done.observation, alive & ~done.done), taken

        of_steps: PyTree = [jax.random.split(key, steps) for key in keys]
        return jax.lax.scan(step, first, of_steps)[1]

    return jax.lax.stop_gradient(jax.vmap(one)(data.rollouts))


def see_task(observation: Array, task: PyTree) -> Array:
    """An observation [o] with the numbers of the task behind it."""
    numbers = [jnp.ravel(leaf).astype(observation.dtype) for leaf in jax.tree.leaves(task)]
    return jnp.concatenate([observation, *numbers])


def discounted_sum(values: Array, discount: float) -> Array:
    """Σ_{i≥t} discount^(i−t) values_i, along the last axis of values [N, H]."""

    def add(total: Array, value: Array) -> tuple[Array, Array]:
        total = value + discount * total
        return total, total

    first = jnp.zeros(values.shape[:-1], values.dtype)
    return jax.lax.scan(add, first, values.T, reverse=True)[1].T


def linear_baseline(trajectories: Trajectories, targets: Array, ridge: float = 1e-5) -> Array:
    """Values [N, H] of a ridge regression of the targets on (s, s², t, t², t³, 1).

    It is fitted to the same rollouts, as published. The features are scaled to a mean square of 1:
    with a ridge of 1e-5 on their raw Gram matrix the system would be singular in float32. Steps
    after the end of a rollout do not count.

    Args:
      trajectories: the rollouts.
      targets: [N, H], the discounted returns.
      ridge: added to the diagonal of the Gram matrix.

    References:
      Duan, Chen, Houthooft, Schulman, Abbeel, Benchmarking deep reinforcement learning for
      continuous control, ICML 2016, arXiv:1604.06778.
    """
    observations, weights = jnp.clip(trajectories.observations, -10, 10), trajectories.mask
    time = jnp.broadcast_to(jnp.arange(weights.shape[1])[:, None] / 100, (*weights.shape, 1))
    features = [observations, observations**2, time, time**2, time**3, jnp.ones_like(time)]
    x = jnp.concatenate(features, -1).reshape(weights.size, -1)
    weighted = x * weights.reshape(-1, 1) / jnp.sum(weights)
    scale = jax.lax.rsqrt(jnp.sum(weighted * x, 0) + 1e-8)
    gram = scale[:, None] * (weighted.T @ x) * scale + ridge * jnp.eye(len(scale))
    solved = jax.scipy.linalg.solve(gram, scale * (weighted.T @ targets.ravel()), assume_a="pos")
    return (x @ (scale * solved)).reshape(weights.shape) * weights


def advantages(trajectories: Trajectories, *, discount: float, gae_lambda: float) -> Array:
    """Generalized advantages [N, H] on the linear baseline, with mean 0 and variance 1.

    Â_t = Σ_{i≥t} (γλ)^(i−t) δ_i with δ_t = r_t + γ V(s_{t+1}) − V(s_t), and V = 0 after the end.

    References:
      Schulman, Moritz, Levine, Jordan, Abbeel, High-dimensional continuous control using
      generalized advantage estimation, ICLR 2016, arXiv:1506.02438.
    """
    rewards, mask = trajectories.rewards, trajectories.mask
    values = linear_baseline(trajectories, discounted_sum(rewards, discount))
    following = jnp.pad(values[:, 1:], ((0, 0), (0, 1)))
    raw = discounted_sum((rewards + discount * following - values) * mask, discount * gae_lambda)
    mean = jnp.sum(raw * mask) / jnp.sum(mask)
    std = jnp.sqrt(jnp.sum((raw - mean) ** 2 * mask) / jnp.sum(mask))
    return jax.lax.stop_gradient((raw - mean) / (std + 1e-8) * mask)
