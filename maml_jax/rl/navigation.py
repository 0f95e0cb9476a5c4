"""2D navigation (Finn et al. 2017, section 5.3): a point moves to a goal that it does not see."""

import dataclasses

import jax
import jax.numpy as jnp

from maml_jax.rl.environments import Step
from maml_jax.types import Array

GOALS = 0.5  # goals are uniform in [-GOALS, GOALS]²
SPEED = 0.1  # an action of 1 moves the point this far, and no action further
NEAR = 0.01  # a rollout ends when both coordinates are closer to the goal than this


@dataclasses.dataclass(frozen=True)
class Navigation:
    """A point in the plane that starts at 0; its reward is minus the distance to the goal.

    The task is the goal [2], the state and the observation are the position [2], and the action is
    the velocity [2] in units of `SPEED`.
    """

    horizon: int = 100
    observation_size: int = 2
    action_size: int = 2
    discrete: bool = False

    def sample_task(self, key: Array) -> Array:
        """Draws a goal."""
        return jax.random.uniform(key, (2,), minval=-GOALS, maxval=GOALS)

    def reset(self, goal: Array, key: Array) -> tuple[Array, Array]:
        """Starts at 0."""
        del goal, key
        return jnp.zeros(2), jnp.zeros(2)

    def step(self, goal: Array, position: Array, action: Array, key: Array) -> Step:
        """Moves the point."""
        del key
        position = position + jnp.clip(SPEED * action, -SPEED, SPEED)
        away = position - goal
        done = jnp.all(jnp.abs(away) < NEAR)
        return Step(position, position, -jnp.sqrt(jnp.sum(away**2)), done)
