"""Barzilai-Borwein, conjugate gradients and Anderson mixing on quadratics; refused arguments."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maml_jax import MetaParams
from maml_jax.inner.optimizers import (
    scale_by_anderson,
    scale_by_barzilai_borwein,
    scale_by_chebyshev,
    scale_by_chebyshev_steps,
    scale_by_conjugate_gradient,
)
from maml_jax.types import Array
from tests.inner.optimizers.methods import KEY, first_update, iterate, spectrum
from tests.inner.problems import adapt, assert_close, float64  # noqa: F401, a fixture


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["pr", "hs"])
def test_conjugate_gradients_end_after_n_steps(kind: str) -> None:
    h, transform = spectrum(10.0, 20), scale_by_conjugate_gradient(kind)
    x = jax.random.normal(KEY, h.shape)
    state = transform.init(x)
    for _ in range(20):
        u, state = transform.update(h * x, state)
        x = x - jnp.dot(h * x, u) / jnp.dot(u, h * u) * u
    assert float(jnp.abs(x).max()) <= 1e-8


@pytest.mark.parametrize("kind", ["pr", "hs"])
def test_a_halted_coordinate_of_conjugate_gradients_keeps_its_gradient(kind: str) -> None:
    """β, made of the others, may be large: a halted direction must not grow with it."""
    transform, gate = scale_by_conjugate_gradient(kind), jnp.array([1.0, 0.0])
    state = transform.init(jnp.zeros(2))
    for size in (1e-7, 1e-3, 1e1, 1e5, 1e9, 1e13):
        u, state = transform.update(jnp.array([size, 1.0]), state, gate=gate)
        assert u[1] == 1.0
        assert np.isfinite(u).all()


@pytest.mark.usefixtures("float64")
def test_anderson_with_a_full_window_ends_like_gmres() -> None:
    h = spectrum(10.0, 5)
    transform = scale_by_anderson(1.0, 6, regularization=1e-14)
    points, _ = iterate(transform, 1.0, h, jnp.ones_like(h), 8)
    assert float(jnp.abs(points[-1]).max()) < 1e-5
    assert float(jnp.abs(iterate(optax.identity(), 1.0, h, jnp.ones_like(h), 8)[0][-1]).max()) > 0.1


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("size", [1, 5])
def test_anderson_without_regularization_solves_singular_problems(size: int) -> None:
    """The columns are parallel as soon as there are more of them than coordinates."""
    h = jnp.linspace(0.1, 1.0, size)

    def last(x: Array) -> Array:
        transform = scale_by_anderson(1.0, 5, regularization=0.0)
        return jnp.max(jnp.abs(iterate(transform, 1.0, h, x, size + 4)[0][-1]))

    error, gradient = jax.value_and_grad(last)(jnp.ones(size))
    assert error < 1e-30
    assert np.all(np.abs(gradient) < 1e-30)


INJECTED = {
    "anderson": (scale_by_anderson, {"step": 0.1, "regularization": 1e-3}, {"window": 3}),
    "barzilai_borwein": (
        scale_by_barzilai_borwein,
        {"initial_step": 0.1, "smallest": 0.5, "largest": 2.0},
        {"kind": "long"},
    ),
    "chebyshev": (scale_by_chebyshev, {"smallest": 1.0, "largest": 3.0}, {}),
    "chebyshev_steps": (
        scale_by_chebyshev_steps,
        {"smallest": 1.0, "largest": 3.0},
        {"num_steps": 4},
    ),
}


@pytest.mark.parametrize("name", INJECTED)
def test_numbers_may_be_traced_and_integers_are_named(name: str) -> None:
    """As optax.inject_hyperparams does, which traces every number that is not static."""
    factory, numbers, static = INJECTED[name]
    h, start = jnp.array([1.0, 2.0, 3.0]), jnp.ones(3)
    injected = optax.inject_hyperparams(factory, static_args=tuple(static))(**numbers, **static)
    points, expected = (
        jax.jit(lambda x, of=of: iterate(of, 1.0, h, x, 4)[0][-1])(start)
        for of in (injected, factory(**numbers, **static))
    )
    assert_close(points, expected, rtol=1e-5, atol=1e-7)
    for argument in {"window", "num_steps"} & static.keys():
        traced = optax.inject_hyperparams(factory)(**numbers, **static)
        with pytest.raises(TypeError, match=f"{argument} is no .* static_args='{argument}'"):
            jax.jit(lambda x, of=traced: iterate(of, 1.0, h, x, 1)[0][-1])(start)


def test_anderson_meta_gradients_do_not_depend_on_the_precision() -> None:
    curvature = np.logspace(-1, 0, 8)

    def gradient() -> Any:
        def loss_fn(params: Array, support: None, key: Array) -> tuple[Array, tuple[()]]:
            return 0.5 * jnp.sum(curvature * (jnp.tanh(params) - 0.3) ** 2), ()

        def loss(init: Array) -> Array:
            meta_params = MetaParams(init, step_sizes=1.0, optimizer=jnp.asarray(0.5))
            run = (scale_by_anderson, meta_params, None, KEY)
            return jnp.sum((adapt(loss_fn, *run, num_steps=20).params - 1.0) ** 2)

        return jax.jit(jax.grad(loss))(jnp.asarray(np.linspace(-1.0, 1.0, 8), float))

    single = gradient()
    with jax.enable_x64(True):
        double = gradient()
    single, double = np.asarray(single), np.asarray(double)
    assert single.dtype != double.dtype
    np.testing.assert_allclose(single, double, atol=0.05 * np.abs(double).max())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["long", "short"])
def test_barzilai_borwein_is_faster_than_tuned_gradient_descent(kind: str) -> None:
    h = spectrum(100.0, 20)
    transform = scale_by_barzilai_borwein(0.1, kind, largest=2_000.0)
    points, _ = iterate(transform, 1.0, h, jnp.ones_like(h), 100)
    descent, _ = iterate(optax.identity(), 2 / 1.01, h, jnp.ones_like(h), 100)
    assert float(jnp.abs(points[-1]).max()) < 0.1 * float(jnp.abs(descent[-1]).max())


def test_barzilai_borwein_stays_within_its_safeguards() -> None:
    transform = scale_by_barzilai_borwein(0.1, smallest=0.5, largest=2.0)
    for curvature, expected in ((1e-3, 0.2), (1e3, 0.05)):
        state = transform.init(jnp.ones(1))
        _, state = transform.update(curvature * jnp.ones(1), state, jnp.ones(1))
        _, state = transform.update(curvature * 0.5 * jnp.ones(1), state, 0.5 * jnp.ones(1))
        assert_close(state.step, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: scale_by_barzilai_borwein(-0.1), "initial_step=-0.1"),
        (lambda: scale_by_barzilai_borwein(0.1, smallest=10.0), "smallest=10.0"),
        (lambda: scale_by_barzilai_borwein(0.1, largest=0.1), "largest=0.1"),
        (lambda: scale_by_barzilai_borwein(0.1, "both"), "'long' or 'short'"),
        (lambda: first_update(scale_by_barzilai_borwein(0.1)), "needs the parameters"),
        (lambda: scale_by_conjugate_gradient("fr"), "'pr' or 'hs'"),
        (lambda: scale_by_anderson(0.0), "step=0.0"),
        (lambda: scale_by_anderson(0.1, regularization=-1.0), "regularization=-1.0"),
        (lambda: scale_by_anderson(0.1, 0), "window=0"),
        (lambda: first_update(scale_by_anderson(0.1)), "needs the parameters"),
    ],
)
def test_bad_arguments_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
