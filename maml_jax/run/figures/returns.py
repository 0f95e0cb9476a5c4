"""Reinforcement learning: returns against updates, and the paths of a point."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from maml_jax.keys import split_objective_key, split_task_key, stream_key, task_keys
from maml_jax.rl.losses import RolloutLoss
from maml_jax.rl.published import PUBLISHED, SOURCE
from maml_jax.rl.rollouts import ToRollOut, Trajectories
from maml_jax.run.figures.runs import Picture, Run, describe_task
from maml_jax.run.figures.style import (
    BLUE,
    COLOURS,
    as_numbers,
    count,
    name_lines,
    plot_with_interval,
    scale_loss,
    single,
)
from maml_jax.types import Array, Params

TASKS, ROLLOUTS = 3, 5
GREY = "#767676"


def returns_against_updates(runs: list[Run]) -> Figure:
    """Mean returns on held-out tasks after every update, with the published ones."""
    spec, records = runs[0].experiment.spec, [run.shown for run in runs]
    figure, axes = single(f"Test: {describe_task(spec, records[0]['shots'])}")
    steps = len(records[0]["return"])
    published = PUBLISHED.get(spec.own["rl"].environment, {}) if not spec.task.oracle else {}
    shown = [*published.items()] if len(runs) > 1 else list(published.items())[:1]
    every = [value for record in records for value in record["return"]]
    every += [value for _, of in shown for value in of.mean[:steps]]
    within = scale_loss(axes, every)
    for run, record in zip(runs, records, strict=True):
        plot_with_interval(axes, record["return"], record["return_ci95"], run.name, within)
    for name, of in shown:
        mean = as_numbers(of.mean[:steps])
        if len(mean) == 1:
            mean = np.repeat(mean, steps)  # an oracle makes no updates
        (line,) = axes.plot(mean, "--", color=GREY, label=f"{name}, {SOURCE}")
        line.set_marker("")
    axes.set(xlabel="updates", ylabel="mean return")
    count(axes.xaxis)
    name_lines(axes)
    return figure


def loss_of(run: Run) -> RolloutLoss:
    """The outer loss of a run, with its environment and its policy."""
    loss = run.experiment.problem.query_loss
    assert isinstance(loss, RolloutLoss)
    return loss


def rollouts_of(run: Run, tasks: int, rollouts: int) -> tuple[Array, Trajectories]:
    """Test tasks [tasks, ...], and rollouts [tasks, K+1, rollouts, H, ...] after each update."""
    experiment, record = run.experiment, run.shown
    spec, problem, loss = experiment.spec, experiment.problem, loss_of(run)
    meta_params = run.meta_params
    if record["inner_step_size"] is not None:
        meta_params = meta_params._replace(step_sizes=jnp.float32(record["inner_step_size"]))
    inner_loop = experiment.inner_loop(record["num_steps"])
    sample = problem.sampler(record["shots"], rollouts, "test")

    def adapt(key: Array) -> tuple[Array, Trajectories]:
        episode_key, objective_key = split_task_key(key)
        episode, of_task = sample(episode_key), split_objective_key(objective_key)

        def watch(params: Params, k: Array) -> Trajectories:
            del k
            return loss.make(params, episode.query, of_task.query).trajectories

        done = inner_loop(meta_params, episode.support, of_task.adapt, monitor=watch)
        assert isinstance(episode.query, ToRollOut)
        return episode.query.task, done.monitored

    # As the first test episodes of the evaluation.
    keys = task_keys(stream_key(spec.seed, "test"), jnp.int32(0), jnp.arange(tasks))
    drawn: tuple[Array, Trajectories] = jax.device_get(jax.jit(jax.vmap(adapt))(keys))
    return drawn


def paths(runs: list[Run]) -> Figure:
    """The ways of a point to a few goals, before and after updates."""
    run = runs[0]
    goals, made = rollouts_of(run, TASKS, ROLLOUTS)
    last = len(run.shown["return"]) - 1
    shown = sorted({0, min(1, last), last})
    figure = Figure(figsize=(2.6 * len(shown), 2.6 * TASKS))
    grid = figure.subplots(TASKS, len(shown), squeeze=False, sharex=True, sharey=True)
    for row, goal in enumerate(goals):
        for column, update in enumerate(shown):
            axes = grid[row, column]
            for index in range(ROLLOUTS):
                alive = made.mask[row, update, index] > 0
                way = made.observations[row, update, index][alive]
                axes.plot(way[:, 0], way[:, 1], color=BLUE, marker="", linewidth=0.8, alpha=0.7)
            axes.plot(*goal, "*", color=COLOURS[1], markersize=11, zorder=3)
            axes.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal")
    for axes, update in zip(grid[0], shown, strict=True):
        axes.set_title("before" if not update else f"{update} update{'s' if update > 1 else ''}")
    for axes in grid[:, 0]:
        axes.set_ylabel("y")
    for axes in grid[-1]:
        axes.set_xlabel("x")
    return figure


RETURNS = Picture(
    "Return after every update",
    "The undiscounted return of new tasks' policies before and after each update, which follows "
    "the gradient estimated from rollouts: means over the test tasks with 95% confidence "
    "intervals. Dashed lines are published means.",
    returns_against_updates,
)
PATHS = Picture(
    "Paths of the point",
    f"Each row is a test task with a goal (star) that the policy does not see, each panel "
    f"{ROLLOUTS} rollouts from the middle, before and after updates.",
    paths,
)
