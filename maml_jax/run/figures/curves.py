"""Learning curves, and what adaptation makes of loss and accuracy."""

import numpy as np
from matplotlib.figure import Figure

from maml_jax.run.figures.runs import Picture, Run, describe_task, loss_name
from maml_jax.run.figures.style import (
    as_numbers,
    count,
    finite,
    name_lines,
    plot_with_interval,
    scale_loss,
    single,
)
from maml_jax.run.files import Record


def learning_curve(runs: list[Run]) -> Figure | None:
    """Query loss of the training tasks against meta-steps."""
    spec = runs[0].experiment.spec
    figure, axes = single(f"Training: {describe_task(spec, spec.task.shots, spec.task.ways)}")
    values: list[float] = []
    rewarded = "return" in runs[0].record
    name = "return" if rewarded else "query_loss"
    for run in runs:
        points = [(line["step"], line.get(name)) for line in run.metrics]
        points = [(step, loss) for step, loss in points if len(finite([loss]))]
        if points:
            steps, losses = zip(*points, strict=True)
            axes.plot(steps, losses, label=run.name)
            values += losses
    if not values:
        return None
    label = "mean return after the updates" if rewarded else f"query loss ({loss_name(spec)})"
    axes.set(xlabel="meta-steps", ylabel=label)
    count(axes.xaxis)
    scale_loss(axes, values)
    name_lines(axes)
    return figure


def loss_against_steps(runs: list[Run]) -> Figure:
    """Query loss on held-out tasks after every inner step: means, intervals and medians."""
    spec, records = runs[0].experiment.spec, [run.shown for run in runs]
    figure, axes = single(f"Test: {describe_task(spec, records[0]['shots'])}")
    within = scale_loss(axes, [v for record in records for v in _shown_losses(record)])
    for run, record in zip(runs, records, strict=True):
        colour = plot_with_interval(axes, record["loss"], record["loss_ci95"], run.name, within)
        if medians := record.get("loss_median"):
            axes.plot(as_numbers(medians), ":", color=colour, marker="", label="_median")
    axes.set(xlabel="inner steps", ylabel=f"query loss ({loss_name(spec)})")
    count(axes.xaxis)
    name_lines(axes)
    return figure


def _shown_losses(record: Record) -> list[float]:
    """What the loss axis must hold; of an interval that nears 0, the upper end alone."""
    mean, half = as_numbers(record["loss"]), as_numbers(record["loss_ci95"])
    lower, upper = mean - half, mean + half
    near = np.where(lower > mean / 3, lower, mean)
    return [*mean, *near, *upper, *record.get("loss_median", [])]


def accuracy_against_steps(runs: list[Run]) -> Figure | None:
    """Accuracy on held-out episodes after every inner step: means, intervals and medians."""
    runs = [run for run in runs if "accuracy" in run.record]
    if not runs:
        return None
    spec, records = runs[0].experiment.spec, [run.shown for run in runs]
    figure, axes = single(f"Test: {describe_task(spec, records[0]['shots'])}")
    for run, record in zip(runs, records, strict=True):
        mean, ci95 = (100 * as_numbers(record[name]) for name in ("accuracy", "accuracy_ci95"))
        colour = plot_with_interval(axes, mean, ci95, run.name, (0, 100))
        if medians := record.get("accuracy_median"):
            axes.plot(100 * as_numbers(medians), ":", color=colour, marker="", label="_median")
    chance = 100 / spec.eval.ways
    steps = [0, max(len(record["accuracy"]) for record in records) - 1]
    axes.plot(steps, [chance, chance], "--", color="#767676", marker="", label="chance")
    axes.set(xlabel="inner steps", ylabel="accuracy on query images, %", ylim=(0, 101))
    count(axes.xaxis)
    name_lines(axes)
    return figure


_INTERVALS = (
    "Points are means over the test episodes that did not diverge, vertical bars are 95% "
    "confidence intervals, and dotted lines are medians over all episodes."
)
LEARNING_CURVE = Picture(
    "Training",
    "The loss on the query data of the training tasks after adaptation, or the return of adapted "
    "policies, averaged between two lines of the log.",
    learning_curve,
)
LOSS = Picture(
    "Loss after every inner step",
    f"How far the loss on new tasks falls as the network adapts to them. {_INTERVALS}",
    loss_against_steps,
)
ACCURACY = Picture(
    "Accuracy after every inner step",
    "How much of the query images of new classes is recognised as the network adapts. "
    + _INTERVALS,
    accuracy_against_steps,
)
