"""The half-cheetah as a stick figure, which needs no renderer."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from maml_jax.rl.half_cheetah import HalfCheetah
from maml_jax.run.figures.returns import loss_of, rollouts_of
from maml_jax.run.figures.runs import Picture, Run
from maml_jax.run.figures.style import BLUE

TASKS, FRAMES = 2, 6


def _segments(model: Any, observation: np.ndarray) -> np.ndarray:
    """Both ends (x, z) [capsules, 2, 2] of the limbs, in the place of the centre of mass."""
    import mujoco

    data = mujoco.MjData(model)
    data.qpos[1:] = observation[: model.nq - 1]
    mujoco.mj_fwdPosition(model, data)
    capsules = model.geom_type == mujoco.mjtGeom.mjGEOM_CAPSULE
    along = data.geom_xmat[capsules].reshape(-1, 3, 3)[:, :, 2]
    half = model.geom_size[capsules, 1:2] * along
    ends = np.stack([data.geom_xpos[capsules] + sign * half for sign in (-1, 1)], 1)
    ends[..., 0] += observation[-3] - data.subtree_com[model.body("torso").id, 0]
    return ends[..., [0, 2]]


def _draw(axes: Axes, model: Any, observations: np.ndarray) -> None:
    """Frames of a rollout, later ones darker."""
    for number, step in enumerate(np.linspace(0, len(observations) - 1, FRAMES).astype(int)):
        for ends in _segments(model, observations[step]):
            shade = 0.25 + 0.75 * number / (FRAMES - 1)
            axes.plot(*ends.T, color=BLUE, marker="", linewidth=2.2, alpha=shade)
    axes.axhline(0, color="#767676", linewidth=0.8)
    axes.set_aspect("equal")


def stick_figures(runs: list[Run]) -> Figure:
    """How the cheetah runs in two test tasks, before and after the updates."""
    run, environment = runs[0], loss_of(runs[0]).environment
    assert isinstance(environment, HalfCheetah)
    tasks, made = rollouts_of(run, TASKS, 1)
    last = len(run.shown["return"]) - 1
    figure = Figure(figsize=(7.2, 2.0 * 2 * TASKS))
    grid = figure.subplots(2 * TASKS, 1, sharex=True)
    for row, axes in enumerate(grid):
        task, update = row // 2, last * (row % 2)
        _draw(axes, environment.model, np.asarray(made.observations[task, update, 0]))
        when = f"after {update} updates" if update else "before"
        axes.set_title(f"{environment.task} {float(tasks[task]):.3g}, {when}")
        axes.set_ylabel("z, m")
    grid[-1].set_xlabel("x, m")
    return figure


STICK_FIGURES = Picture(
    "The cheetah before and after",
    f"{FRAMES} equally spaced moments of a rollout in two test tasks; later ones are darker.",
    stick_figures,
)
