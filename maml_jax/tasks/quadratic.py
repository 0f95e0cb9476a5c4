"""Quadratic tasks, whose adaptation and meta-gradient have a closed form: the tests' oracle.

L(θ) = ½ Σ_i h_i (θ_i − c_i)², with curvatures h shared by all tasks and a center c ~ N(0, I) per
task. Gradient descent with step α gives θ_K − c = (1 − αh)^K (θ_0 − c), hence the query loss
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


def sample_episode(key: Array, curvature: Array) -> tuple[Quadratic, Quadratic]:
    """Draws a center; support and query are the same quadratic with curvature [n]."""
    center = jax.random.normal(key, curvature.shape, curvature.dtype)
    quadratic = Quadratic(curvature, center)
    return quadratic, quadratic


def adapted(params: Array, quadratic: Quadratic, learning_rate: Array, num_steps: int) -> Array:
    """θ_K in closed form, [n]."""
    contraction = (1 - learning_rate * quadratic.curvature) ** num_steps
    return quadratic.center + contraction * (params - quadratic.center)


def meta_gradient(
    params: Array, quadratic: Quadratic, learning_rate: Array, num_steps: int
) -> Array:
    """∂L(θ_K)/∂θ_0 in closed form, [n]."""
    contraction = (1 - learning_rate * quadratic.curvature) ** num_steps
    return quadratic.curvature * contraction**2 * (params - quadratic.center)
