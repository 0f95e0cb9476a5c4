"""What figures show: of learned lengths, those of lengths made by hand."""

import numpy as np

from maml_jax.run import figures as length_figures
from maml_jax.run.build import build
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


def test_an_oracle_alone_has_no_waves() -> None:
    experiment = build(tiny_config(algorithm="pretrained", task__oracle=True))
    run = length_figures.Run("oracle", experiment, experiment.init().meta_params, {}, [])
    assert length_figures.fitted_waves([run]) is None


def test_without_matrices_there_is_no_map() -> None:
    assert length_figures.filter_maps({"bias": LENGTHS["bias"]}, most=3) is None


def test_a_parameter_moves_in_as_many_steps_as_its_length() -> None:
    (axes,) = length_figures.share_alive(LENGTHS, num_steps=4).axes
    shares = {line.get_label(): line.get_ydata() for line in axes.lines}
    np.testing.assert_allclose(shares["kernel"], np.array([4, 3, 3, 0]) / 6)
    np.testing.assert_allclose(shares["bias"], np.array([3, 3, 1, 0]) / 4)
    np.testing.assert_allclose(shares["all"], np.array([7, 6, 4, 0]) / 10)


def test_lines_over_training_leave_out_those_without_lengths() -> None:
    compute, lengths = length_figures.compute_over_training(LINES).axes
    np.testing.assert_allclose(compute.lines[0].get_xydata(), [[10, 20], [20, 40]])
    assert [line.get_label() for line in lengths.lines] == ["mean", "p90", "p99", "max"]
    (axes,) = length_figures.sparsity_over_training(LINES).axes
    sparsity = {line.get_label(): line.get_xydata() for line in axes.lines}
    np.testing.assert_allclose(sparsity["kernel"], [[10, 0.1], [20, 0.05]])
    np.testing.assert_allclose(sparsity["bias"], [[10, 0.5], [20, 0.5]])
