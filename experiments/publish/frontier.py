"""The figures of the report: at most eight arms each, with their names at the lines.

python -m experiments.publish.frontier

Into experiments/results/:

- frontier_TASK.png: accuracy (or median loss) against inner compute C. Every arm is a curve over
  its inner steps, averaged over seeds, with a marker where it ends.
- optimizers_sinusoid.png: the 99th percentile of the learned lengths and the median loss of arms of
  the study of accelerated methods.
- prices.png: one against the other, one curve per arm over the costs of a step that it was trained
  with.
"""

from collections.abc import Iterable

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from experiments import cli
from experiments.publish import results
from experiments.publish.arms import (
    ACCELERATED,
    ENGLISH,
    EQUAL_COMPUTE,
    EQUAL_COMPUTE_STUDY,
    MEASURES,
)
from experiments.publish.results import Record
from experiments.publish.study_tables import runs_by_cost
from experiments.studies.comparisons import last, length_statistic, paired_interval
from maml_jax.run.figures.style import STYLE, count, name_lines

_DECIMAL = FuncFormatter(lambda value, _: f"{value:g}")
_P99 = "99th percentile of the learned lengths, inner steps"
_MEDIAN = "median loss of the test tasks (MSE)"
_LOWEST = 3e-5  # edge of the logarithmic axes, to which intervals that contain 0 are drawn
_WINNER = "meta_curvature_rates_tensor_step"  # trained at one cost alone


def draw(task: str) -> Figure:
    """One curve per arm; steps after the last one that costs anything are left out."""
    measure, record = MEASURES[task], results.read(EQUAL_COMPUTE_STUDY[task])
    figure = Figure(figsize=(6.8, 4.4))
    axes = figure.subplots()
    for arm in EQUAL_COMPUTE[task]:
        _draw_arm(axes, ENGLISH[arm], record["arms"][arm]["runs"], measure)
    axes.set(xlabel="inner compute C, MFLOP per task", xlim=(0, None))
    if measure == "accuracy":
        axes.set(ylabel="accuracy on the test tasks, %", ylim=(40, 95))
    else:
        _scale_loss(axes)
    name_lines(axes)
    return figure


def _scale_loss(axes: Axes) -> None:
    axes.set(ylabel=_MEDIAN, yscale="log")
    axes.yaxis.set_major_formatter(_DECIMAL)
    axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_arm(axes: Axes, name: str, runs: list[Record], measure: str) -> None:
    compute = np.mean([run["inner_compute"] for run in runs], axis=0) / 1e6
    values = np.mean([run[measure] for run in runs], axis=0)
    values = 100 * values if measure == "accuracy" else values
    end = int(np.argmax(compute >= compute[-1])) + 1
    shown = np.append(values[: end - 1], values[-1])  # later steps of hard gates change nothing
    axes.plot(compute[:end], shown, label=name, markevery=[end - 1], markersize=7)


def _intervals(values: Iterable[np.ndarray]) -> np.ndarray:
    """Means over seeds and their 95% t-intervals: [2, points]."""
    return np.transpose([paired_interval(of_seeds, 0.0) for of_seeds in values])


def draw_optimizers() -> Figure:
    """Means over seeds with 95% t-intervals, one row per arm, those of short lengths on top."""
    arms = results.read("acceleration_sinusoid_20")["arms"]
    p99 = {arm: length_statistic(arms[arm]["runs"], "p99") for arm in ACCELERATED}
    ordered = sorted(p99, key=lambda arm: -p99[arm].mean())
    loss = {arm: last(arms[arm]["runs"], "loss_median") for arm in ordered}
    figure = Figure(figsize=(8.4, 3.8))
    for axes, values in zip(figure.subplots(1, 2, sharey=True), (p99, loss), strict=True):
        mean, half = _intervals([values[arm] for arm in ordered])
        low, rows = np.clip(mean - half, _LOWEST, None), np.arange(len(ordered))
        axes.hlines(rows, low, mean + half, linewidth=2)
        axes.plot(mean, rows, "o", markersize=7)
        axes.set_yticks(rows, [ENGLISH[arm] for arm in ordered])
    left, right = figure.axes
    left.set(xlabel="99th percentile of the\nlearned lengths, inner steps", xlim=(0, 21))
    count(left.xaxis)
    right.set(xlabel="median loss of the\ntest tasks (MSE)", xscale="log", xlim=(_LOWEST, None))
    right.xaxis.set_major_formatter(_DECIMAL)
    return figure


def draw_costs() -> Figure:
    """Means over seeds with 95% t-intervals; points are labelled with the cost of a step."""
    figure = Figure(figsize=(8.4, 4.2))
    axes = figure.subplots()
    winner = results.read("acceleration_sinusoid_20")["arms"][_WINNER]["runs"]
    for index, (arm, of) in enumerate({**runs_by_cost(), _WINNER: {1: winner}}.items()):
        p99, p99_ci = _intervals([length_statistic(runs, "p99") for runs in of.values()])
        loss, loss_ci = _intervals([last(runs, "loss_median") for runs in of.values()])
        (line,) = axes.plot(p99, loss, label=ENGLISH[arm], markersize=6)
        lower = np.clip(loss - loss_ci, _LOWEST, None)
        axes.vlines(p99, lower, loss + loss_ci, colors=line.get_color(), linewidth=1)
        axes.hlines(loss, p99 - p99_ci, p99 + p99_ci, colors=line.get_color(), linewidth=1)
        for cost, x, y in zip(of, p99, loss, strict=True):
            axes.annotate(
                f"cost {cost}",
                (x, y),
                (5, -11 if index in (2, 3) else 5),
                textcoords="offset points",
                fontsize=8,
                color=line.get_color(),
            )
    axes.set(xlabel=_P99, xlim=(0, 22))
    _scale_loss(axes)
    axes.set_ylim(_LOWEST, None)
    count(axes.xaxis)
    name_lines(axes)
    return figure


def main(_: list[str]) -> None:
    """Draws and keeps."""
    with matplotlib.rc_context({**STYLE, "font.size": 11}):
        figures = {f"frontier_{task}": draw(task) for task in EQUAL_COMPUTE}
        figures |= {"optimizers_sinusoid": draw_optimizers(), "prices": draw_costs()}
        for name, figure in figures.items():
            path = results.RESULTS / f"{name}.png"
            figure.savefig(path, dpi=110)
            print(path)


if __name__ == "__main__":
    cli.run(main)
