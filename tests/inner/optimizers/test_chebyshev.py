"""Chebyshev methods: the lower bound on quadratics, early halts and refused arguments."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import quadratics
from maml_jax.inner.optimizers import scale_by_chebyshev, scale_by_chebyshev_steps
from tests.inner.optimizers.methods import CONDITIONS, iterate, spectrum
from tests.inner.problems import assert_close, float64  # noqa: F401, a fixture
from tests.marks import slow_but


def chebyshev_value(degree: int, condition: float) -> float:
    argument = (condition + 1) / (condition - 1)
    return float(np.cosh(degree * np.arccosh(argument)))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("condition", CONDITIONS)
def test_chebyshev_steps_reach_the_lower_bound(condition: float) -> None:
    h = spectrum(condition)
    for num_steps in (1, 7, 16, 64):
        transform = scale_by_chebyshev_steps(1 / condition, 1.0, num_steps)
        points, _ = iterate(transform, 1.0, h, jnp.ones_like(h), num_steps)
        best = 1 / chebyshev_value(num_steps, condition)
        np.testing.assert_allclose(abs(points[-1, 0]), best, rtol=1e-5)
        assert np.all(np.abs(points[-1]) <= best * (1 + 1e-5))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_semi_iteration_is_optimal_at_every_prefix(condition: float) -> None:
    h = spectrum(condition)
    points, _ = iterate(scale_by_chebyshev(1 / condition, 1.0), 1.0, h, jnp.ones_like(h), 64)
    for steps in range(1, 65):
        best = 1 / chebyshev_value(steps, condition)
        np.testing.assert_allclose(abs(points[steps, 0]), best, rtol=1e-5)
        assert np.all(np.abs(points[steps]) <= best * (1 + 1e-5))


def test_the_semi_iteration_on_a_single_eigenvalue_is_gradient_descent() -> None:
    points, _ = iterate(scale_by_chebyshev(2.0, 2.0), 1.0, jnp.array([1.0]), jnp.ones(1), 4)
    assert_close(points[:, 0], 0.5 ** np.arange(5), rtol=1e-6)


def test_chebyshev_steps_stay_moderate_in_between() -> None:
    """In descending order, the same steps would reach 1e31."""
    h = jnp.asarray(np.logspace(-4, 0, 50))
    points, _ = iterate(scale_by_chebyshev_steps(1e-4, 1.0, 64), 1.0, h, jnp.ones_like(h), 64)
    assert 1 < float(jnp.abs(points).max()) < 1e4


@pytest.mark.parametrize("condition", slow_but([10_000.0], [10.0, 10_000.0]))
def test_what_a_coordinate_loses_that_halts_before_the_final_step(condition: float) -> None:
    with jax.enable_x64(True):
        eigenvalues = jnp.logspace(-np.log10(condition), 0, 20)
        losses = {
            name: np.array(quadratics.halted_early(name, condition, eigenvalues)).T
            for name in quadratics.MADE_FOR_FINAL
        }
    for halted, made in losses.values():
        np.testing.assert_allclose(halted[-1], made[-1])
    halted, made = losses["OGM"]
    assert np.all(halted[:-1] > 1.1 * made[:-1])
    assert np.all(halted < 2 * made)
    np.testing.assert_allclose(*losses["Chebyshev"], rtol=1e-6)
    halted, made = losses["Chebyshev steps"]
    assert np.any(halted > 5 * made)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: scale_by_chebyshev(0.0, 1.0), "smallest=0.0"),
        (lambda: scale_by_chebyshev(2.0, 1.0), "largest=1.0 is not allowed; use smallest=2.0"),
        (lambda: scale_by_chebyshev(1.0, float("inf")), "largest=inf is not finite"),
        (lambda: scale_by_chebyshev_steps(-1.0, 1.0, 3), "smallest=-1.0"),
        (lambda: scale_by_chebyshev_steps(1.0, 2.0, 0), "num_steps=0"),
    ],
)
def test_bad_arguments_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
