"""Figures of learned lengths: which parameters adapt, for how long, and at what cost."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from maml_jax.run.figures.runs import Picture, Run, describe_task
from maml_jax.run.figures.schedule import segments
from maml_jax.run.figures.style import MOST_SERIES, count, name_lines, single
from maml_jax.run.learned import Lengths

Lines = list[dict[str, Any]]  # of metrics.jsonl
_SPARSITY = "sparsity/"


def largest(lengths: Lengths, most: int) -> tuple[Lengths, Lengths]:
    """The tensors with the most parameters, in their order, and the others."""
    if len(lengths) <= most:
        return lengths, {}
    by_size = sorted(lengths, key=lambda path: -lengths[path].size)
    chosen = set(by_size[: most - 1])
    return (
        {path: of for path, of in lengths.items() if path in chosen},
        {path: of for path, of in lengths.items() if path not in chosen},
    )


def _merged(lengths: Lengths, most: int) -> Lengths:
    """At most so many tensors; the small ones are one vector."""
    shown, others = largest(lengths, most)
    if not others:
        return shown
    return shown | {f"{len(others)} others": _all(others)}


def _all(lengths: Lengths) -> np.ndarray:
    return np.concatenate([value.ravel() for value in lengths.values()])


def histograms(lengths: Lengths, most: int) -> Figure:
    """Histogram of K over the parameters of each tensor."""
    lengths = _merged(lengths, MOST_SERIES)
    figure = Figure(figsize=(6.4, 1.15 * len(lengths) + 0.6))
    grid = figure.subplots(len(lengths), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (path, value) in zip(grid, lengths.items(), strict=True):
        counts = np.bincount(value.ravel(), minlength=most + 1) / value.size
        axes.bar(np.arange(len(counts)), counts, width=0.9)
        axes.set(ylim=(0, 1), yticks=(0, 0.5, 1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        shape = " x ".join(map(str, value.shape)) or "scalar"
        axes.set_title(f"{path} ({shape}), mean {value.mean():.1f} steps", fontsize="small")
    figure.supylabel("share of the tensor's parameters", fontsize="medium")
    grid[-1].set_xlabel("learned length K, inner steps")
    count(grid[-1].xaxis)
    return figure


def filter_maps(lengths: Lengths, most: int) -> Figure | None:
    """Heat map of K over the inputs and outputs of each matrix or convolution.

    Rows are inputs (kernel positions × channels of a convolution), columns are outputs.
    """
    kernels = {path: value for path, value in lengths.items() if value.ndim > 1}
    kernels, _ = largest(kernels, MOST_SERIES)
    if not kernels:
        return None
    figure = Figure(figsize=(2.6 * len(kernels) + 1.2, 3.6))
    grid = figure.subplots(1, len(kernels), squeeze=False)[0]
    for axes, (path, value) in zip(grid, kernels.items(), strict=True):
        rows = value.reshape(-1, value.shape[-1])
        image = axes.imshow(rows, aspect="auto", vmin=0, vmax=most, interpolation="nearest")
        axes.set(xlabel="output")
        axes.set_title(path, fontsize="small")
        axes.grid(visible=False)
        count(axes.xaxis)
        count(axes.yaxis)
    grid[0].set_ylabel("input" if all(v.ndim == 2 for v in kernels.values()) else "kernel position")
    bar = figure.colorbar(image, ax=grid, label="learned length K, inner steps")
    count(bar.ax.yaxis)
    return figure


def share_alive(lengths: Lengths, num_steps: int) -> Figure:
    """Share of each tensor's parameters that still adapt, against the inner step."""
    figure, axes = single("Parameters that still adapt")
    steps = np.arange(1, num_steps + 1)
    for path, value in {**_merged(lengths, MOST_SERIES - 1), "all": _all(lengths)}.items():
        shares = [(value >= k).mean() for k in steps]
        (line,) = axes.plot(steps, shares, drawstyle="steps-mid", label=path)
        if path == "all":
            line.set(color="black", linewidth=2.5, linestyle="--")
    axes.set(xlabel="inner step", ylabel="share of the tensor's parameters", ylim=(-0.02, 1.02))
    count(axes.xaxis)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    name_lines(axes)
    return figure


def _with_lengths(lines: Lines) -> tuple[Lines, list[int]]:
    lines = [line for line in lines if "inner_compute" in line]
    return lines, [line["step"] for line in lines]


def compute_over_training(lines: Lines) -> Figure | None:
    """Inner compute C, and mean and high percentiles of K, against meta-steps."""
    lines, steps = _with_lengths(lines)
    if not lines:
        return None
    figure = Figure(figsize=(6.4, 6.4))
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.plot(steps, [line["inner_compute"] / 1e6 for line in lines])
    upper.set(ylabel="C, MFLOP per task", ylim=(0, None))
    upper.set_title("Inner compute of one task")
    for name in ("mean", "p90", "p99", "max"):
        lower.plot(steps, [line.get(f"length/{name}", np.nan) for line in lines], label=name)
    lower.set(xlabel="meta-steps", ylabel="learned length K, inner steps", ylim=(0, None))
    lower.set_title("Lengths over the parameters")
    count(lower.xaxis)
    count(lower.yaxis)
    name_lines(lower)
    return figure


def sparsity_over_training(lines: Lines, paths: list[str] | None = None) -> Figure | None:
    """Share of each tensor's parameters with K = 0, against meta-steps, as in sparse-MAML.

    Args:
      lines: of metrics.jsonl.
      paths: the tensors to show; None takes all.
    """
    lines, steps = _with_lengths(lines)
    if not lines:
        return None
    figure, axes = single("Parameters that never adapt")
    known = [name.removeprefix(_SPARSITY) for name in lines[0] if name.startswith(_SPARSITY)]
    for path in (path for path in known if paths is None or path in paths):
        axes.plot(steps, [line.get(_SPARSITY + path, np.nan) for line in lines], label=path)
    axes.set(xlabel="meta-steps", ylabel="share with K = 0", ylim=(-0.02, 1.02))
    count(axes.xaxis)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    name_lines(axes)
    return figure


def length_pictures(runs: list[Run]) -> list[Picture]:
    """The figures of a run's learned lengths; none if it has none."""
    run = runs[0]
    learned = run.experiment.learned
    if learned.gates is None:
        return []
    lengths, most = learned.lengths(run.meta_params), learned.most
    shown = [*largest(lengths, MOST_SERIES)[0]]
    of = describe_task(run.experiment.spec, run.record["shots"])
    return [
        Picture(
            f"Learned lengths: {of}",
            "For each tensor of the network, how many of its parameters take 0, 1, … inner steps: "
            "those at 0 never adapt. The smallest tensors of a large network are shown as one.",
            lambda _: histograms(lengths, most),
        ),
        Picture(
            "Where the lengths are",
            "The learned length of every single weight: each column is an output of the layer (a "
            "filter of a convolution), each row one of its inputs; brighter weights adapt longer.",
            lambda _: filter_maps(lengths, most),
            pixels=True,
        ),
        Picture(
            "Who still adapts",
            "The share of each tensor's parameters that an inner step still changes; the dashed "
            "line is the whole network.",
            lambda _: share_alive(lengths, run.experiment.spec.eval.num_steps),
        ),
        Picture(
            "The compiled inner loop",
            "A tensor moves as long as one of its parameters does. Between two dotted lines the "
            "same tensors move, and only they are differentiated; above stands how long one test "
            "task takes there, on the machine that drew this report.",
            segments,
        ),
        Picture(
            "Compute and lengths in training",
            "Above, the floating-point operations of adapting to one task; below, the mean, the "
            "90th and 99th percentile and the maximum of the lengths, as they were learned.",
            lambda _: compute_over_training(run.metrics),
        ),
        Picture(
            "Sparsity in training",
            "The share of each tensor's parameters that do not adapt at all, as the lengths were "
            "learned (at most the eight largest tensors).",
            lambda _: sparsity_over_training(run.metrics, shown),
        ),
    ]
