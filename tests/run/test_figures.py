"""What figures show: of learned lengths, those of lengths made by hand."""

import pathlib
from collections.abc import Iterator
from functools import cache

import jax
import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from maml_jax.run.build import Experiment, build
from maml_jax.run.figures import Run, curves, style
from maml_jax.run.figures import lengths as length_figures
from maml_jax.run.figures.images import class_names
from maml_jax.run.figures.runs import describe_task
from maml_jax.types import MetaParams
from tests.run.pictures import draw, picture_config
from tests.run.runs import tiny_config

LENGTHS = {"kernel": np.array([[0, 1, 3], [3, 3, 0]]), "bias": np.array([2, 2, 0, 3])}
LINES = [
    {"step": 5, "loss": 1.0},
    *(
        {
            "step": step,
            "inner_compute": 2e6 * step,
            **{f"length/{name}": step + 0.1 for name in ("mean", "p90", "p99", "max")},
            "sparsity/kernel": 1 / step,
            "sparsity/bias": 0.5,
        }
        for step in (10, 20)
    ),
]


def test_a_histogram_has_the_share_of_every_length() -> None:
    kernel, bias = length_figures.histograms(LENGTHS, most=4).axes
    heights = [[bar.get_height() for bar in axes.patches] for axes in (kernel, bias)]
    np.testing.assert_allclose(heights[0], np.array([2, 1, 0, 3, 0]) / 6)
    np.testing.assert_allclose(heights[1], np.array([1, 0, 2, 1, 0]) / 4)


def test_a_map_has_inputs_as_rows_and_filters_as_columns() -> None:
    convolution = np.arange(2 * 1 * 3 * 4).reshape(2, 1, 3, 4)
    lengths = LENGTHS | {"conv": convolution}
    kernel, conv, _ = length_figures.filter_maps(lengths, most=23).axes
    np.testing.assert_array_equal(kernel.images[0].get_array(), LENGTHS["kernel"])
    np.testing.assert_array_equal(conv.images[0].get_array(), convolution.reshape(6, 4))
    assert conv.images[0].get_clim() == (0, 23)


def test_without_matrices_there_is_no_map() -> None:
    assert length_figures.filter_maps({"bias": LENGTHS["bias"]}, most=3) is None


def test_a_parameter_moves_in_as_many_steps_as_its_length() -> None:
    (axes,) = length_figures.share_alive(LENGTHS, num_steps=4).axes
    shares = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert axes.lines[0].get_xdata().tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(shares["kernel"], np.array([4, 3, 3, 0]) / 6)
    np.testing.assert_allclose(shares["bias"], np.array([3, 3, 1, 0]) / 4)
    np.testing.assert_allclose(shares["all"], np.array([7, 6, 4, 0]) / 10)


def test_lines_over_training_leave_out_those_without_lengths() -> None:
    figure = length_figures.compute_over_training(LINES)
    assert figure is not None
    compute, lengths = figure.axes
    np.testing.assert_allclose(compute.lines[0].get_xydata(), [[10, 20], [20, 40]])
    assert [line.get_label() for line in lengths.lines] == ["mean", "p90", "p99", "max"]
    figure = length_figures.sparsity_over_training(LINES)
    assert figure is not None
    (axes,) = figure.axes
    sparsity = {line.get_label(): line.get_xydata() for line in axes.lines}
    np.testing.assert_allclose(sparsity["kernel"], [[10, 0.1], [20, 0.05]])
    np.testing.assert_allclose(sparsity["bias"], [[10, 0.5], [20, 0.5]])


@pytest.fixture(autouse=True)
def styled() -> Iterator[None]:
    with rc_context(style.STYLE):
        yield


@cache
def experiment() -> Experiment:
    return build(tiny_config())


def run_of(record: dict[str, object], metrics: list[dict[str, object]] | None = None) -> Run:
    return Run("maml", experiment(), MetaParams(()), record, metrics or [])


def whole_ticks(figure: Figure) -> bool:
    figure.canvas.draw()
    return all(float(tick).is_integer() for axes in figure.axes for tick in axes.get_xticks())


@pytest.mark.parametrize(
    ("loss", "ci95", "scale"),
    [
        ([3.0, 0.5, 0.01], [0.1, 0.6, 1.0], "log"),  # intervals that reach below 0
        ([3.0, 0.5, 1e18], [0.1, 0.1, 1e18], "log"),
        ([3.0, 2.5, 2.4], [0.1, 0.1, 0.1], "linear"),
        ([-3.0, -2.5, -2.4], [0.1, 0.1, 0.1], "linear"),
        ([3.0, float("nan"), float("inf")], [0.1, float("nan"), float("nan")], "linear"),
    ],
)
def test_intervals_end_where_the_axis_of_losses_ends(
    loss: list[float], ci95: list[float], scale: str
) -> None:
    record = {"loss": loss, "loss_ci95": ci95, "loss_median": loss, "shots": 5}
    figure = curves.loss_against_steps([run_of(record)])
    (axes,) = figure.axes
    assert axes.get_yscale() == scale
    bottom, top = axes.get_ylim()
    assert scale == "linear" or 0 < bottom < top < 1e5
    heights = np.concatenate([np.ravel(of) for of in axes.collections[0].get_segments()])
    heights = heights[1::2][np.isfinite(heights[1::2])]
    assert bottom <= heights.min() <= heights.max() <= top
    assert whole_ticks(figure)
    assert axes.get_xlabel() == "inner steps"
    assert axes.get_ylabel() == "query loss (mean squared error)"
    assert axes.get_title(loc="left") == "Test: sinusoid, 5 support points"


def test_a_learning_curve_leaves_out_what_is_not_finite() -> None:
    values = [4.0, 2.0, None, float("inf"), 1.0, 1e18]
    lines = [{"step": 10 * i, "query_loss": value} for i, value in enumerate(values)]
    figure = curves.learning_curve([run_of({"shots": 5}, lines)])
    assert figure is not None
    (axes,) = figure.axes
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [0, 10, 40, 50])
    assert axes.get_ylim()[1] < 1e6
    assert whole_ticks(figure)
    assert [text.get_text() for text in axes.texts] == ["maml"]
    assert curves.learning_curve([run_of({"shots": 5})]) is None


def test_names_at_lines_do_not_overlap_and_stay_in_the_figure() -> None:
    _, axes = style.single("")
    for i in range(style.MOST_SERIES):
        axes.plot([0, 1], [0, 1 + i / 1000], label=str(i))
    style.name_lines(axes)
    heights = sorted(text.get_position()[1] for text in axes.texts)
    assert np.diff(heights).min() > 0.07
    assert 0 <= heights[0] <= heights[-1] <= 1


def test_small_tensors_of_a_large_network_are_shown_as_one() -> None:
    many = {str(i): np.full(i + 1, i) for i in range(20)}
    figure = length_figures.histograms(many, most=19)
    assert len(figure.axes) == style.MOST_SERIES
    assert figure.axes[-1].get_title(loc="left").startswith("13 others (91)")
    (axes,) = length_figures.share_alive(many, num_steps=19).axes
    assert len(axes.lines) <= style.MOST_SERIES
    assert whole_ticks(figure)


def test_classes_of_an_episode_have_their_names(tmp_path: pathlib.Path) -> None:
    spec = build(picture_config(draw(tmp_path / "data"))).spec
    names = class_names(spec, jax.random.key(0))
    assert len(set(names)) == 3
    assert all(name.startswith("c") for name in names)
    assert describe_task(spec, 1) == "data, 3-way 1-shot"
