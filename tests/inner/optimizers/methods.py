"""All transforms with working hyper-parameters, and quadratics to run them on."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maml_jax.inner import optimizers
from maml_jax.inner.optimizers import INNER_OPTIMIZERS
from maml_jax.types import Array

KEY = jax.random.key(0)
CONDITIONS = (10.0, 100.0, 10_000.0)


def scale_by_full_curvature(scale: Array) -> optax.GradientTransformationExtraArgs:
    """Meta-Curvature with matrices I + scale everywhere, for parameters of any shape."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        matrices = jax.tree.map(lambda eye: eye + scale, optimizers.curvature_matrices(updates))
        return optimizers.scale_by_curvature(matrices).update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


# name -> (hyper-parameters, (hyper-parameters, T) -> transform, α)
METHODS: dict[str, tuple[Any, Callable[[Any, int], Any], float]] = {
    "heavy_ball": (0.6, lambda h, steps: optimizers.scale_by_heavy_ball(h), 0.05),
    "nesterov": (0.6, lambda h, steps: optimizers.scale_by_nesterov(h), 0.05),
    "nesterov_sequence": ((), lambda h, steps: optimizers.scale_by_nesterov_sequence(), 0.05),
    "nesterov_strongly_convex": (
        0.1,
        lambda h, steps: optimizers.scale_by_nesterov_strongly_convex(h),
        0.05,
    ),
    "ogm": ((), lambda h, steps: optimizers.scale_by_ogm(steps), 0.05),
    "restart": (
        0.9,
        lambda h, steps: optimizers.adaptive_restart(optimizers.scale_by_nesterov(h)),
        0.1,
    ),
    "restart_value": (
        0.9,
        lambda h, steps: optimizers.adaptive_restart(optimizers.scale_by_nesterov(h), "value"),
        0.1,
    ),
    "chebyshev_steps": (
        (2.0, 30.0),
        lambda h, steps: optimizers.scale_by_chebyshev_steps(*h, num_steps=steps),
        1.0,
    ),
    "chebyshev": ((2.0, 30.0), lambda h, steps: optimizers.scale_by_chebyshev(*h), 1.0),
    "barzilai_borwein_long": (0.05, lambda h, steps: optimizers.scale_by_barzilai_borwein(h), 1.0),
    "barzilai_borwein_short": (
        0.05,
        lambda h, steps: optimizers.scale_by_barzilai_borwein(h, "short"),
        1.0,
    ),
    "conjugate_gradient_pr": (
        (),
        lambda h, steps: optimizers.scale_by_conjugate_gradient("pr"),
        0.5,
    ),
    "conjugate_gradient_hs": (
        (),
        lambda h, steps: optimizers.scale_by_conjugate_gradient("hs"),
        0.5,
    ),
    "anderson": (0.05, lambda h, steps: optimizers.scale_by_anderson(h, 3), 1.0),
    "curvature": (0.2, lambda h, steps: scale_by_full_curvature(h), 0.05),
    "curvature_momentum": (
        (0.2, 0.6),
        lambda h, steps: optax.chain(
            scale_by_full_curvature(h[0]), optimizers.scale_by_heavy_ball(h[1])
        ),
        0.05,
    ),
    **{
        name: (
            (),
            lambda h, steps, entry=INNER_OPTIMIZERS[name]: optax.with_extra_args_support(
                entry.make({}, steps)
            ),
            0.005,
        )
        for name in ("adam", "rmsprop", "adagrad", "lion")
    },
}
OVER_COORDINATES = [
    name
    for name in METHODS
    if name.startswith(("restart", "barzilai", "conjugate", "anderson", "curvature"))
    and name != "restart_value"
]


def strong(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, float), tree)


def spectrum(condition: float, number: int = 50) -> Array:
    """Eigenvalues from 1/κ to L = 1, both included."""
    return jnp.logspace(-np.log10(condition), 0, number)


def iterate(
    transform: Any, alpha: float, eigenvalues: Array, start: Array, num_steps: int
) -> tuple[Array, Any]:
    """Points x_0 … x_T and the states after each step, on ½ Σ h x²."""

    transform = optax.with_extra_args_support(transform)

    def step(carry: Any, _: None) -> tuple[Any, Any]:
        x, state = carry
        gradient = eigenvalues * x
        value = 0.5 * jnp.sum(eigenvalues * x**2)
        u, state = transform.update(gradient, state, x, value=value)
        return (x - alpha * u, state), (x - alpha * u, state)

    _, (points, states) = jax.lax.scan(step, (start, transform.init(start)), length=num_steps)
    return jnp.concatenate([start[None], points]), states


def first_update(transform: Any) -> Any:
    return transform.update(jnp.ones(2), transform.init(jnp.ones(2)))
