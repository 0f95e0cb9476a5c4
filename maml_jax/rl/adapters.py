"""Environments of other libraries as families of tasks."""

import dataclasses
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from maml_jax.rl.environments import Step
from maml_jax.types import Array, PyTree


class SampleTask(Protocol):
    """Draws a task."""

    def __call__(self, key: Array, /) -> PyTree: ...


class TaskReward(Protocol):
    """The reward [] of a step in a task, given the library's states before and after it."""

    def __call__(self, task: PyTree, before: Any, action: Array, after: Any, /) -> Array: ...


def _own_reward(task: PyTree, before: Any, action: Array, after: Any) -> Array:
    """The reward of the environment itself."""
    del task, before, action
    reward: Array = after.reward
    return reward


@dataclasses.dataclass(frozen=True, eq=False)
class BraxEnvironment:
    """A brax environment whose tasks differ in the reward.

    Attributes:
      env: as of `brax.envs.get_environment`, without wrappers.
      sample_task: key -> task, any pytree.
      horizon: H.
      reward: (task, state before, action, state after) -> reward []; None takes brax's own.

    Example:
      A walker that is asked for a velocity:

        env = envs.get_environment("walker2d", backend="spring")
        BraxEnvironment(
            env,
            lambda key: jax.random.uniform(key, maxval=2.0),
            reward=lambda goal, before, action, after: -jnp.abs(
                after.metrics["x_velocity"] - goal
            ),
        )
    """

    env: Any
    sample_task: SampleTask
    horizon: int = 200
    reward: TaskReward = _own_reward
    discrete: bool = False

    @property
    def observation_size(self) -> int:
        """o."""
        return int(self.env.observation_size)

    @property
    def action_size(self) -> int:
        """a."""
        return int(self.env.action_size)

    def reset(self, task: PyTree, key: Array) -> tuple[Any, Array]:
        """Resets; the reward of a state is a number of the dtype that a step gives."""
        del task
        state = self.env.reset(key)
        return state, state.obs

    def step(self, task: PyTree, state: Any, action: Array, key: Array) -> Step:
        """Takes a step; brax draws nothing in it."""
        del key
        after = self.env.step(state, action)
        reward = self.reward(task, state, action, after)
        return Step(after, after.obs, reward, after.done > 0)


@dataclasses.dataclass(frozen=True, eq=False)
class GymnaxEnvironment:
    """A gymnax environment whose tasks are its parameters, such as masses and lengths.

    Attributes:
      env: as of `gymnax.make`.
      sample_task: key -> parameters of the environment.
      horizon: H.

    Example:
      Pendulums of different gravity:

        env, params = gymnax.make("Pendulum-v1")
        GymnaxEnvironment(
            env, lambda key: params.replace(g=jax.random.uniform(key, minval=5.0, maxval=15.0))
        )
    """

    env: Any
    sample_task: SampleTask
    horizon: int = 200

    @property
    def _action_space(self) -> Any:
        return self.env.action_space(self.env.default_params)

    @property
    def discrete(self) -> bool:
        """Whether the actions are numbered."""
        return hasattr(self._action_space, "n")

    @property
    def action_size(self) -> int:
        """The length of an action, or the number of actions."""
        space = self._action_space
        return int(space.n) if self.discrete else math.prod(space.shape)

    @property
    def observation_size(self) -> int:
        """The length of an observation, which is flattened."""
        make = jax.eval_shape(self.env.reset_env, jax.random.key(0), self.env.default_params)
        return int(make[0].size)

    def reset(self, task: PyTree, key: Array) -> tuple[Any, Array]:
        """Resets."""
        observation, state = self.env.reset_env(key, task)
        return _settled(state), jnp.ravel(observation)

    def step(self, task: PyTree, state: Any, action: Array, key: Array) -> Step:
        """Takes a step, without gymnax's reset at the end."""
        shape = () if self.discrete else self._action_space.shape
        observation, after, reward, done, _ = self.env.step_env(
            key, state, action.reshape(shape), task
        )
        after = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), after, state)
        reward = jnp.asarray(reward, float).reshape(())
        return Step(after, jnp.ravel(observation), reward, jnp.asarray(done, bool).reshape(()))


def _settled(state: Any) -> Any:
    """A state of arrays without weak types, which a scan can carry."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), state)
