"""Momentum methods: textbook rates and bounds on quadratics, restarts and refused arguments."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maml_jax.inner.optimizers import (
    adaptive_restart,
    scale_by_heavy_ball,
    scale_by_nesterov,
    scale_by_nesterov_sequence,
    scale_by_nesterov_strongly_convex,
    scale_by_ogm,
)
from maml_jax.types import Array
from tests.inner.optimizers.methods import CONDITIONS, KEY, first_update, iterate, spectrum
from tests.inner.problems import float64  # noqa: F401, a fixture
from tests.marks import slow_but


def spectral_radius(transform: Any, alpha: float, eigenvalues: Array) -> float:
    """Of the one-step map (x, memory) -> (x, memory), the largest over the eigenvalues."""

    def of(eigenvalue: Array) -> Array:
        template = transform.init(jnp.zeros(()))
        # Momentum methods reach their constant coefficients after a first step.
        template = transform.update(jnp.zeros(()), template, jnp.zeros(()))[1]

        def step(vector: Array) -> Array:
            state = template
            if hasattr(state, "momentum"):
                state = state._replace(momentum=vector[1])
            u, state = transform.update(eigenvalue * vector[0], state, vector[0])
            return jnp.stack([vector[0] - alpha * u, getattr(state, "momentum", jnp.zeros(()))])

        return jax.jacobian(step)(jnp.zeros(2))

    matrices = np.asarray(jax.vmap(of)(eigenvalues))
    return float(np.abs(np.linalg.eigvals(matrices)).max())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("condition", CONDITIONS)
def test_stationary_methods_contract_at_their_textbook_rate(condition: float) -> None:
    root, h = np.sqrt(condition), spectrum(condition)
    mu = 1 / condition
    heavy_rate = (root - 1) / (root + 1)
    cases = {
        "gd": (optax.identity(), 2 / (1 + mu), (condition - 1) / (condition + 1)),
        "heavy_ball": (
            scale_by_heavy_ball(heavy_rate**2),
            4 / (1 + np.sqrt(mu)) ** 2,
            heavy_rate,
        ),
        "nesterov": (scale_by_nesterov_strongly_convex(mu), 1.0, 1 - 1 / root),
    }
    for name, (transform, alpha, theory) in cases.items():
        rho = spectral_radius(transform, alpha, h)
        np.testing.assert_allclose(1 - rho, 1 - theory, rtol=1e-3, err_msg=name)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("condition", slow_but(CONDITIONS[1:2], CONDITIONS))
def test_fista_and_ogm_stay_below_their_bounds(condition: float) -> None:
    h, num_steps = spectrum(condition), 200
    starts = jax.random.normal(KEY, (100, h.size))
    squared = np.asarray(jnp.sum(starts**2, axis=1))

    def value(x: Array) -> np.ndarray:
        return np.asarray(0.5 * jnp.sum(h * x**2, axis=-1))

    fista = scale_by_nesterov_sequence()
    points, states = jax.vmap(lambda x: iterate(fista, 1.0, h, x, num_steps))(starts)
    before = points[:, 1:] + states.beta[..., None] * states.momentum  # y_T = x_T + α β m
    bound = 2 * squared[:, None] / (np.arange(1, num_steps + 1) + 1) ** 2
    assert np.all(value(before) <= bound * (1 + 1e-9))

    free = scale_by_ogm(num_steps + 1)
    points, states = jax.vmap(lambda x: iterate(free, 1.0, h, x, num_steps))(starts)
    first = jax.vmap(free.init)(starts)
    for last in range(1, num_steps + 1):
        transform = scale_by_ogm(last)
        at = last - 2
        state = first if last == 1 else jax.tree.map(lambda s, at=at: s[:, at], states)
        x = points[:, last - 1]
        u, state = jax.vmap(transform.update)(h * x, state)
        assert np.all(value(x - u) <= squared / (2 * np.asarray(state.t) ** 2) * (1 + 1e-9))


@pytest.mark.usefixtures("float64")
def test_ogm_attains_its_bound_on_the_steepest_quadratic() -> None:
    for num_steps in (1, 2, 5, 50):
        h = jnp.array([3.0])
        points, states = iterate(scale_by_ogm(num_steps), 1 / 3, h, jnp.ones(1), num_steps)
        value, theta = 1.5 * float(points[-1, 0]) ** 2, float(states.t[-1])
        np.testing.assert_allclose(value, 3 / (2 * theta**2), rtol=1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("condition", [100.0, 10_000.0])
@pytest.mark.parametrize("scheme", ["gradient", "value"])
def test_restart_improves_fista(condition: float, scheme: str) -> None:
    h, num_steps = spectrum(condition), int(20 * np.sqrt(condition))
    start = jax.random.normal(KEY, h.shape)
    fista = scale_by_nesterov_sequence()
    plain, _ = iterate(fista, 1.0, h, start, num_steps)
    restarted, states = iterate(adaptive_restart(fista, scheme), 1.0, h, start, num_steps)
    values = [float(jnp.sum(h * x[-1] ** 2)) for x in (plain, restarted)]
    assert values[1] < 0.1 * values[0]
    assert int(states.restarts[-1]) >= 1


def test_a_restart_weighs_coordinates_by_how_far_they_really_move() -> None:
    """The momentum after these gradients points uphill or not, with these step sizes."""
    transform = adaptive_restart(scale_by_heavy_ball(0.9))
    for step_size, gradient, expected in (
        (None, [0.1, -0.45], 1),
        ([1.0, 1.0], [0.1, -0.45], 1),
        ([10.0, 1.0], [0.1, -0.45], 0),
        ([1.0, 1.0], [0.5, 0.5], 0),
        ([1.0, -2.0], [0.5, 0.5], 1),  # a learned step size may be negative
    ):
        alpha = None if step_size is None else jnp.array(step_size)
        _, first = transform.update(jnp.ones(2), transform.init(jnp.zeros(2)), step_size=alpha)
        _, second = transform.update(jnp.array(gradient), first, step_size=alpha)
        assert int(second.restarts - first.restarts) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: scale_by_heavy_ball(1.0), "momentum=1.0 is not allowed; use 0 or more, below"),
        (lambda: scale_by_heavy_ball(float("nan")), "momentum=nan is not finite"),
        (lambda: scale_by_nesterov(-0.1), "momentum=-0.1"),
        (lambda: scale_by_nesterov_strongly_convex(-0.1), "inverse_condition=-0.1"),
        (lambda: scale_by_ogm(0), "num_steps=0"),
        (
            lambda: first_update(adaptive_restart(scale_by_nesterov(0.9), "value")),
            "needs the loss",
        ),
        (lambda: adaptive_restart(optax.identity(), "speed"), "'gradient' or 'value'"),
    ],
)
def test_bad_arguments_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
