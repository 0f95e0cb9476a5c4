"""Figures of learned lengths: where the network learns, and for how long."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

Lengths = dict[str, np.ndarray]  # path -> hard lengths [*p]
Lines = list[dict[str, Any]]  # of metrics.jsonl


def histograms(lengths: Lengths, most: int) -> Figure:
    """Histogram of K over the parameters of every tensor."""
    figure = Figure(figsize=(9, 1.4 * len(lengths) + 0.6), layout="constrained")
    grid = figure.subplots(len(lengths), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (path, value) in zip(grid, lengths.items(), strict=True):
        counts = np.bincount(value.ravel(), minlength=most + 1) / value.size
        axes.bar(np.arange(len(counts)), counts, width=0.9)
        axes.set(ylim=(0, 1), ylabel="share")
        axes.set_title(f"{path} {list(value.shape)}, mean {value.mean():.1f}", fontsize="small")
    grid[-1].set_xlabel("K, inner steps")
    return figure


def filter_maps(lengths: Lengths, most: int) -> Figure:
    """Heat map of K over inputs and outputs of every matrix or convolution.

    Rows are inputs (kernel positions × channels of a convolution), columns are filters.
    """
    kernels = {path: value for path, value in lengths.items() if value.ndim > 1}
    figure = Figure(figsize=(3.2 * len(kernels) + 1, 4), layout="constrained")
    grid = figure.subplots(1, len(kernels), squeeze=False)[0]
    for axes, (path, value) in zip(grid, kernels.items(), strict=True):
        rows = value.reshape(-1, value.shape[-1])
        image = axes.imshow(rows, aspect="auto", vmin=0, vmax=most, interpolation="nearest")
        axes.set(title=path, xlabel="filter")
    grid[0].set_ylabel("kernel position, input")
    figure.colorbar(image, ax=grid, label="K")
    return figure


def share_alive(lengths: Lengths, num_steps: int) -> Figure:
    """Share of every tensor's parameters that move, against the inner step."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps = np.arange(num_steps)
    for path, value in lengths.items():
        shares = [(value > k).mean() for k in steps]
        axes.step(steps, shares, where="mid", label=path)
    every = np.concatenate([value.ravel() for value in lengths.values()])
    axes.step(steps, [(every > k).mean() for k in steps], "k--", where="mid", label="all")
    axes.set(xlabel="inner step k", ylabel="share that moves", ylim=(-0.02, 1.02))
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def compute_over_training(lines: Lines) -> Figure:
    """Inner compute C, and mean and high percentiles of K, against meta-steps."""
    lines = [line for line in lines if "inner_compute" in line]
    steps = [line["step"] for line in lines]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(steps, [line["inner_compute"] / 1e6 for line in lines], marker=".")
    left.set(xlabel="meta-step", ylabel="C, MFLOP per task", ylim=(0, None))
    for name in ("mean", "p90", "p99", "max"):
        right.plot(steps, [line[f"length/{name}"] for line in lines], marker=".", label=name)
    right.set(xlabel="meta-step", ylabel="K over parameters")
    right.legend()
    return figure


def sparsity_over_training(lines: Lines) -> Figure:
    """Share of every tensor's parameters with K = 0, against meta-steps (sparse-MAML's figure)."""
    prefix = "sparsity/"
    lines = [line for line in lines if "inner_compute" in line]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name in (name for name in (lines[0] if lines else {}) if name.startswith(prefix)):
        values = [line[name] for line in lines]
        steps = [line["step"] for line in lines]
        axes.plot(steps, values, marker=".", label=name.removeprefix(prefix))
    axes.set(xlabel="meta-step", ylabel="share with K = 0", ylim=(-0.02, 1.02))
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
