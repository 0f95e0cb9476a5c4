"""Quadratic tasks, whose adaptation and meta-gradient have a closed form.

L(θ) = ½ Σ_i h_i (θ_i − c_i)², with curvatures h shared by all tasks and a center c ~ N(0, I) for
each task. Gradient descent with step α gives θ_K − c = (1 − αh)^K (θ_0 − c), hence the query loss
½ Σ h (1 − αh)^{2K} (θ_0 − c)² and the meta-gradient h (1 − αh)^{2K} (θ_0 − c).
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from maml_jax.types import Array


class Quadratic(NamedTuple):
    """One quadratic, which is its own support and query data."""

    curvature: Array  # [n], h
    center: Array  # [n], c


def loss(params: Array, quadratic: Quadratic, key: Array) -> tuple[Array, tuple[()]]:
    """½ Σ h (θ − c)² for params [n]."""
    del key
    chex.assert_equal_shape((params, quadratic.curvature, quadratic.center))
    return 0.5 * jnp.sum(quadratic.curvature * (params - quadratic.center) ** 2), ()


def sample_episode(
    key: Array, curvature: Array, noise: Array | float = 0.0
) -> tuple[Quadratic, Quadratic]:
    """Draws a center c ~ N(0, I), which support data see as c + noise · ε with ε ~ N(0, I).

    Args:
      key: [], a typed PRNG key.
      curvature: [n], h.
      noise: [n] or [], standard deviation of the noise; 0 gives the same quadratic twice.

    Returns:
      (support, query).
    """
    center = jax.random.normal(key, curvature.shape, curvature.dtype)
    error = jax.random.normal(jax.random.fold_in(key, 1), curvature.shape, curvature.dtype)
    return Quadratic(curvature, center + noise * error), Quadratic(curvature, center)


def expected_losses(curvature: Array, noise: Array, step_size: Array, num_steps: Array) -> Array:
    """The expected query loss of each coordinate after K steps from θ_0 = 0, [n].

    It is ½ h ((1 − ρ)² + ρ² s²) with ρ = 1 − (1 − αh)^K, since more steps also fit the noise s.
    The minimum over real K is at (1 − αh)^K = s² / (1 + s²).
    """
    moved = 1 - (1 - step_size * curvature) ** num_steps
    return 0.5 * curvature * ((1 - moved) ** 2 + (moved * noise) ** 2)


def adapted(params: Array, quadratic: Quadratic, step_size: Array, num_steps: int) -> Array:
    """θ_K in closed form, [n]."""
    contraction = (1 - step_size * quadratic.curvature) ** num_steps
    return quadratic.center + contraction * (params - quadratic.center)


def meta_gradient(params: Array, quadratic: Quadratic, step_size: Array, num_steps: int) -> Array:
    """∂L(θ_K)/∂θ_0 in closed form, [n]."""
    contraction = (1 - step_size * quadratic.curvature) ** num_steps
    return quadratic.curvature * contraction**2 * (params - quadratic.center)
