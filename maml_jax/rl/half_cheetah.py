"""The half-cheetah of Finn et al. 2017, section 5.3, on MJX: it runs to a side, or at a speed."""

import dataclasses
import pathlib
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from maml_jax.errors import UsageError
from maml_jax.rl.environments import Step
from maml_jax.types import Array

TASKS = ("direction", "velocity")
MAX_VELOCITY = 2.0  # m/s, of the goals
CONTROL_COST = 0.05


class CheetahState(NamedTuple):
    """What a step of the simulation needs from the one before."""

    positions: Array  # [9], of the joints
    velocities: Array  # [9]
    warm_start: Array  # [9], where the solver of the constraints starts
    center_of_mass: Array  # [3]


@dataclasses.dataclass(frozen=True, eq=False)
class HalfCheetah:
    """MuJoCo's half-cheetah at 100 Hz without frame skip, as published.

    The reward is direction · velocity or −|velocity − goal|, minus 0.05 ‖action‖², with the
    velocity of the centre of mass along x. The observation has the positions of the joints but for
    the first, their velocities and the centre of mass.

    Attributes:
      task: "direction", with the task −1 or 1, or "velocity", with a goal in [0, 2] m/s.
      solver_iterations: of MuJoCo's constraint solver in a step.
      line_search_iterations: of its line search.

    Raises:
      UsageError: MuJoCo is not installed.
    """

    task: str
    horizon: int = 200
    observation_size: int = 20
    action_size: int = 6
    discrete: bool = False
    solver_iterations: int = 4
    line_search_iterations: int = 8

    def __post_init__(self) -> None:
        """Loads the model, which tells at once whether it can be."""
        if self.task not in TASKS:
            raise ValueError(f"task={self.task!r} is unknown; use {' or '.join(TASKS)}")
        _ = self.model

    @cached_property
    def model(self) -> Any:
        """MuJoCo's model, from gymnasium's file."""
        try:
            import gymnasium
            import mujoco
            import mujoco.mjx
        except ImportError as error:
            raise UsageError(
                f"rl.environment='half_cheetah_{self.task}' needs MuJoCo and gymnasium "
                f"({error}); install them with: pip install 'maml_jax[rl]'"
            ) from error
        folder = pathlib.Path(gymnasium.__file__).parent
        model = mujoco.MjModel.from_xml_path(str(folder / "envs/mujoco/assets/half_cheetah.xml"))
        model.opt.iterations = self.solver_iterations
        model.opt.ls_iterations = self.line_search_iterations
        return model

    @cached_property
    def _mjx(self) -> tuple[Any, Any, Any]:
        """The module, the model and blank data on the device."""
        from mujoco import mjx

        with jax.ensure_compile_time_eval():
            model = mjx.put_model(self.model)
            return mjx, model, mjx.make_data(model)

    def _center_of_mass(self, data: Any) -> Array:
        """[3], of positions that have just changed."""
        mjx, model, _ = self._mjx
        moved = mjx.com_pos(model, mjx.kinematics(model, data))
        center: Array = moved.subtree_com[self.model.body("torso").id]
        return center

    def sample_task(self, key: Array) -> Array:
        """Draws a direction or a velocity."""
        if self.task == "direction":
            return jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        return jax.random.uniform(key, maxval=MAX_VELOCITY)

    def reset(self, task: Array, key: Array) -> tuple[CheetahState, Array]:
        """Stands almost still."""
        del task
        _, model, blank = self._mjx
        noise = jax.random.normal(key, (2, *model.qpos0.shape))
        positions, velocities = model.qpos0 + 0.01 * noise[0], 0.1 * noise[1]
        center = self._center_of_mass(blank.replace(qpos=positions))
        state = CheetahState(positions, velocities, jnp.zeros_like(velocities), center)
        return state, observe(state)

    def step(self, task: Array, state: CheetahState, action: Array, key: Array) -> Step:
        """Applies torques in [-1, 1] for 10 ms."""
        del key
        mjx, model, blank = self._mjx
        action = jnp.clip(action, -1, 1)
        data = blank.replace(
            qpos=state.positions,
            qvel=state.velocities,
            qacc_warmstart=state.warm_start,
            ctrl=action,
        )
        data = mjx.step(model, data)
        center = self._center_of_mass(data)
        moved = CheetahState(data.qpos, data.qvel, data.qacc_warmstart, center)
        velocity = (center[0] - state.center_of_mass[0]) / self.model.opt.timestep
        gain = task * velocity if self.task == "direction" else -jnp.abs(velocity - task)
        reward = gain - CONTROL_COST * jnp.sum(action**2)
        return Step(moved, observe(moved), reward, jnp.zeros((), bool))


def observe(state: CheetahState) -> Array:
    """The observation [20]."""
    return jnp.concatenate([state.positions[1:], state.velocities, state.center_of_mass])
