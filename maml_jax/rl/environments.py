"""Environments of reinforcement learning: families of tasks whose rollouts are pure functions."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from maml_jax.checks import check_count
from maml_jax.errors import UsageError, first_line
from maml_jax.meta.sampling import same_constants
from maml_jax.types import Array, PyTree


class Step(NamedTuple):
    """What a step of one rollout gives."""

    state: PyTree
    observation: Array  # [o]
    reward: Array  # []
    done: Array  # [], bool: whether the rollout ends with this step


class Environment(Protocol):
    """A family of tasks, as pure functions of ONE rollout that take the task explicitly.

    Tasks and states are any pytrees. Rollouts are vmapped over, and scanned over steps.
    """

    @property
    def horizon(self) -> int:
        """H, the most steps of a rollout."""

    @property
    def observation_size(self) -> int:
        """o, the length of an observation."""

    @property
    def action_size(self) -> int:
        """a, the length of an action or, if `discrete`, the number of actions."""

    @property
    def discrete(self) -> bool:
        """Whether an action is an index [] below `action_size`, and not a vector [a]."""

    def sample_task(self, key: Array, /) -> PyTree:
        """Draws a task, such as a goal."""

    def reset(self, task: PyTree, key: Array, /) -> tuple[PyTree, Array]:
        """The first state and observation [o] of a rollout."""

    def step(self, task: PyTree, state: PyTree, action: Array, key: Array, /) -> Step:
        """Takes a step."""


def check_environment(environment: Environment, name: str, horizon: int) -> None:
    """Checks that a rollout can be traced, and that its step is pure; nothing is computed.

    Raises:
      UsageError: the horizon is not positive, a function is not pure, or a shape does not fit.
    """
    of = f"environment {name!r}"
    try:
        check_count("horizon", horizon)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{of}: {error}") from error
    key = jax.random.key(0)

    def rollout(key: Array) -> tuple[Any, ...]:
        task = environment.sample_task(key)
        state, observation = environment.reset(task, key)
        size = () if environment.discrete else (environment.action_size,)
        action = jnp.zeros(size, int if environment.discrete else float)
        return observation, state, environment.step(task, state, action, key)

    try:
        pure = same_constants(rollout, key)
        observation, state, step = jax.eval_shape(rollout, key)
    except jax.errors.JAXTypeError as error:
        raise UsageError(
            f"{of} has functions that cannot be traced ({first_line(error)}); write sample_task, "
            "reset and step as pure functions of their arguments, with jax.numpy"
        ) from error
    if not pure:
        raise UsageError(
            f"{of} has a step that is not pure: traced twice it gives two programs; draw with "
            "jax.random and the key, and keep everything that changes in the state"
        )
    wanted = (environment.observation_size,)
    for shape in (observation.shape, step.observation.shape):
        if shape != wanted:
            raise UsageError(f"{of} has observations of shape {shape}; give {wanted}")
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), of) for of in (state, step.state)]
    if shapes[0] != shapes[1]:
        raise UsageError(
            f"{of}: step returns a state of other shapes or dtypes than reset; make them the same"
        )
