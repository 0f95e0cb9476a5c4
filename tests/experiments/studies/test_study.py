"""The parts of a study."""

import pytest

from experiments.studies.study import select
from maml_jax.errors import UsageError
from maml_jax.run.build import optimizer_flops
from tests.experiments.studies.problems import tiny_study
from tests.run.runs import tiny_config


def test_an_unknown_arm_is_named() -> None:
    with pytest.raises(UsageError, match="--arms=mamll is unknown; use maml"):
        select(tiny_study().arms, ["maml", "mamll"])


def test_products_of_an_inner_optimizer_are_counted() -> None:
    """Meta-Curvature of a network 1-8-1: one product a mode, 2 d · n FLOPs each."""
    learned = {"inner__optimizer": "meta_curvature", "inner__learn_optimizer": "global"}
    modes = [(1, 8), (8, 8), (8, 8), (8, 8), (1, 8), (1, 1)]  # (d, parameters of the tensor)
    expected = sum(2 * d * n for d, n in modes)
    assert optimizer_flops(tiny_config(**learned)) == expected
    assert optimizer_flops(tiny_config(inner__optimizer="heavy_ball")) == 0
