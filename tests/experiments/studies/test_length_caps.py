"""What long lengths are worth, and the step sizes that they come with."""

import pathlib

import numpy as np
import pytest

from experiments.studies import length_caps, length_step_sizes
from maml_jax.errors import UsageError
from maml_jax.run.build import Experiment, build
from maml_jax.run.loop import train_and_evaluate
from maml_jax.run.workdir import load_run
from maml_jax.types import MetaParams
from tests.run.runs import tiny_config


@pytest.mark.parametrize("step_sizes", ["fixed", "parameter", "tensor_step"])
def test_steps_are_larger_where_they_shall_be(step_sizes: str) -> None:
    experiment = build(tiny_config(algorithm="adaptive_k", inner__step_sizes=step_sizes))
    meta_params = experiment.init().meta_params
    before = experiment.learned.step_sizes(meta_params)
    larger = length_caps.with_larger_steps(experiment, meta_params, 1.5, "head")
    for path, alpha in experiment.learned.step_sizes(larger).items():
        factor = 1.5 if path.startswith("head/") else 1
        np.testing.assert_allclose(alpha, factor * before[path], rtol=1e-6)


def test_steps_that_cannot_be_enlarged_are_named() -> None:
    experiment = build(tiny_config(algorithm="adaptive_k", inner__step_sizes="scalar"))
    with pytest.raises(UsageError, match="--tensors=head cannot enlarge"):
        length_caps.with_larger_steps(experiment, experiment.init().meta_params, 2.0, "head")


@pytest.mark.slow
def test_long_lengths_are_cut_and_shown_with_their_step_sizes(tmp_path: pathlib.Path) -> None:
    config = tiny_config(
        algorithm="adaptive_k",
        inner__num_steps=2,
        inner__step_sizes="parameter",
        inner__optimizer="heavy_ball",
        inner__learn_optimizer="parameter",
        num_meta_steps=20,
    )
    train_and_evaluate(config, tmp_path / "adaptive_k_102")
    experiment, state = load_run(tmp_path / "adaptive_k_102")
    losses = length_caps.measure(tmp_path, "adaptive_k", [0], "head")
    whole = experiment.evaluate(state.meta_params, "validation").estimates["loss"].median
    np.testing.assert_allclose([*losses["up to 2"], *losses["cut to 0"]], whole[[-1, 0]], 1e-6)
    head_still, _ = losses["head cut to 0"], losses["head cut to 0, steps 2.00 times as large"]
    assert len({*head_still, whole[-1], whole[0]}) == 3
    with pytest.raises(UsageError, match="no runs of --arms=maml"):
        length_caps.measure(tmp_path, "maml", [0])
    with pytest.raises(UsageError, match="no learned lengths are under 'tail'; choose from dense"):
        experiment.learned.cut(state.meta_params, 0, "tail")
    check_classes(tmp_path, experiment, state.meta_params)
    check_steps(tmp_path, experiment, state.meta_params)


def check_classes(root: pathlib.Path, experiment: Experiment, meta_params: MetaParams) -> None:
    classes = length_step_sizes.classes(root, "adaptive_k", [0, 1, 2])
    lengths = experiment.learned.lengths(meta_params)
    step_sizes = experiment.learned.step_sizes(meta_params)
    logits = meta_params.optimizer["momentum"]
    assert classes.keys() == lengths.keys()
    for path, rows in classes.items():
        assert [row["lengths"] for row in rows] == [[0, 0], [1, 1], [2, None]]
        assert [row["count"] for row in rows] == [np.sum(lengths[path] == k) for k in range(3)]
        for k, row in enumerate(rows):
            inside = lengths[path] == k
            if not inside.any():
                continue
            assert row["length"] == k
            assert row["step_size"] == pytest.approx(np.abs(step_sizes[path][0][inside]).mean())
            momentum = 1 / (1 + np.exp(-np.asarray(logits[path])[inside]))
            assert row["momentum"] == pytest.approx(momentum.mean(), rel=1e-5)


def check_steps(root: pathlib.Path, experiment: Experiment, meta_params: MetaParams) -> None:
    lengths = experiment.learned.lengths(meta_params)
    step_sizes = experiment.learned.step_sizes(meta_params)
    for path, row in length_step_sizes.steps(root, "adaptive_k").items():
        taken = [lengths[path] > k for k in range(lengths[path].max())]
        assert row["count"] == [of.sum() for of in taken]
        means = [step_sizes[path][0][of].mean() for of in taken]
        np.testing.assert_allclose(row["step_size"], means, 1e-5)
