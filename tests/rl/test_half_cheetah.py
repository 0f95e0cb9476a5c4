"""MJX against MuJoCo's C, which the extra `rl` installs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

mujoco = pytest.importorskip("mujoco", reason="the extra rl is not installed")
pytest.importorskip("mujoco.mjx", reason="the extra rl is not installed")
pytest.importorskip("gymnasium", reason="the extra rl is not installed")

from maml_jax.rl import Step  # noqa: E402
from maml_jax.rl.half_cheetah import HalfCheetah  # noqa: E402

STEPS, ROLLOUTS = 200, 2
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def in_c(environment: HalfCheetah, state: Any, actions: np.ndarray) -> tuple[np.ndarray, float]:
    """Positions [H, 9] of MuJoCo's own simulation, and its return."""
    model, data = environment.model, mujoco.MjData(environment.model)
    data.qpos[:], data.qvel[:] = state.positions, state.velocities
    mujoco.mj_forward(model, data)
    positions, total = [], 0.0
    for action in actions:
        before = data.subtree_com[1, 0]
        data.ctrl[:] = action
        mujoco.mj_step(model, data)
        mujoco.mj_forward(model, data)
        total += (data.subtree_com[1, 0] - before) / model.opt.timestep
        total -= 0.05 * np.sum(action**2)
        positions.append(data.qpos.copy())
    return np.array(positions), total


def test_mjx_follows_mujoco() -> None:
    environment = HalfCheetah("direction")
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, ROLLOUTS, 6)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), ROLLOUTS)
    first, _ = jax.vmap(environment.reset, (None, 0))(jnp.float32(1), keys)

    @jax.jit
    def run(state: Any, actions: Any) -> Any:
        def step(state: Any, action: Any) -> Any:
            made: Step = jax.vmap(environment.step, (None, 0, 0, None))(1.0, state, action, keys[0])
            return made.state, (made.state.positions, made.reward)

        return jax.lax.scan(step, state, actions)[1]

    positions, rewards = run(first, jnp.asarray(actions))
    for rollout in range(ROLLOUTS):
        start = jax.tree.map(lambda leaf, r=rollout: np.asarray(leaf[r], np.float64), first)
        expected, total = in_c(environment, start, actions[:, rollout])
        np.testing.assert_allclose(positions[:, rollout], expected, atol=2e-3)
        assert rewards[:, rollout].sum() == pytest.approx(total, abs=0.2)
