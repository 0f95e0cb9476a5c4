"""How figures look: colours, ticks, names at the lines, and axes that hold what is drawn."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    StrMethodFormatter,
)

# Okabe and Ito's colours, which the colour-blind can tell apart; in print, markers differ too.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#8A7D00",  # their yellow is too pale for text
)
BLUE, VERMILLION, GREEN = COLOURS[:3]
MOST_SERIES = len(COLOURS)
STYLE: Any = {
    "axes.prop_cycle": cycler(color=COLOURS) + cycler(marker=tuple("os^Dv<>P")),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.markersize": 4,
    "image.cmap": "cividis",
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "text.parse_math": False,  # class names and paths are no formulas
    "svg.hashsalt": "maml_jax",  # the same run gives the same file
}
_LEAST_RATIO = 5.0  # of the largest to the smallest value on a logarithmic axis
_FAR = 1e3  # times the median: larger values are cut off


def single(title: str) -> tuple[Figure, Axes]:
    """A figure of one panel, as wide as a phone's screen can show."""
    figure = Figure(figsize=(6.4, 3.8))
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes


def count(axis: Axis) -> None:
    """Whole numbers at the ticks, as 20,000."""
    axis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def as_numbers(values: Iterable[Any]) -> np.ndarray:
    """Floats, with NaN for what is None in a record."""
    return np.array([np.nan if value is None else value for value in values], np.float64)


def finite(values: Iterable[Any]) -> np.ndarray:
    """The values that are finite numbers."""
    numbers = as_numbers(values)
    kept: np.ndarray = numbers[np.isfinite(numbers)]
    return kept


def scale_loss(axes: Axes, values: Iterable[Any]) -> tuple[float, float]:
    """Chooses a logarithmic axis for losses that differ much, with room for all but far outliers.

    Returns:
      The lowest and the highest value that the axis shows.
    """
    shown = finite(values)
    if not len(shown):
        return axes.get_ylim()
    low, high = float(shown.min()), float(shown.max())
    median = float(np.median(shown))
    if median > 0:
        high = min(high, _FAR * median)
    if low <= 0 or high < _LEAST_RATIO * low:
        margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        bottom, top = low - margin, high + margin
        axes.set_ylim(bottom, top)
        return bottom, top
    bottom, top = low / 1.5, high * 1.5
    axes.set(yscale="log", ylim=(bottom, top))
    subs = (1.0, 2.0, 5.0) if top / bottom < 200 else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    return bottom, top


def plot_with_interval(
    axes: Axes, mean: Iterable[Any], ci95: Iterable[Any], label: str, within: tuple[float, float]
) -> Any:
    """A line of means with intervals that end where the axis ends.

    Returns:
      Its colour.
    """
    middle, half = as_numbers(mean), as_numbers(ci95)
    steps = np.arange(len(middle))
    (line,) = axes.plot(steps, middle, label=label)
    colour: Any = line.get_color()
    lower, upper = (np.clip(middle + sign * half, *within) for sign in (-1, 1))
    axes.vlines(steps, lower, upper, colors=colour, linewidth=1.2)
    return colour


def _spread(heights: list[float], gap: float) -> list[float]:
    """Ascending heights, moved as little as needed to lie a gap apart and below 1."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap) if placed else height)
    highest = 1.0
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], highest)
        highest = placed[i] - gap
    return placed


def name_lines(axes: Axes, gap: float = 0.075) -> None:
    """Writes the label of each line beside its right end, in its colour."""
    axes.autoscale_view()
    ends = []
    for line in axes.lines:
        points = np.asarray(line.get_xydata(), float)
        points = points[np.isfinite(points).all(axis=1)]
        if str(line.get_label()).startswith("_") or not len(points):
            continue
        pixel = axes.transData.transform(points[-1])
        height = float(axes.transAxes.inverted().transform(pixel)[1])
        ends.append((min(max(height, 0.0), 1.0) if math.isfinite(height) else 0.0, line))
    ends.sort(key=lambda end: end[0])
    for height, (_, line) in zip(_spread([end[0] for end in ends], gap), ends, strict=True):
        axes.text(
            1.02,
            height,
            str(line.get_label()),
            color=line.get_color(),
            transform=axes.transAxes,
            verticalalignment="center",
            fontsize="small",
        )
