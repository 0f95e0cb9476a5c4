"""Meta-Curvature: a learned linear map of the gradients."""

import jax
import jax.numpy as jnp
import optax

from maml_jax.inner.optimizers.tree_math import map_unmasked, mask
from maml_jax.types import Array, Params, PyTree


def _modes(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0] * shape[1], *shape[2:]) if len(shape) == 4 else shape


def curvature_matrices(params: Params) -> PyTree:
    """Identity matrices to start `scale_by_curvature` from.

    A leaf [d_1, …, d_r] gets a tuple of r matrices [d_i, d_i]. The h·w positions of a convolution
    kernel [h, w, C, F] form a single axis.
    """
    return jax.tree.map(lambda p: tuple(jnp.eye(d) for d in _modes(p.shape)), params)


def scale_by_curvature(matrices: PyTree) -> optax.GradientTransformationExtraArgs:
    """Meta-Curvature: u = g ×_1 M_1 ×_2 … ×_r M_r, with a learned matrix for every axis.

    Halted coordinates of g count as 0.

    Args:
      matrices: a tuple of matrices for every leaf, as `curvature_matrices` makes them.

    References:
      Park, Oliva, Meta-Curvature, NeurIPS 2019, arXiv:1902.03356.
    """

    def product(gradient: Array, of_leaf: tuple[Array, ...]) -> Array:
        result = gradient.reshape(_modes(gradient.shape))
        for axis, matrix in enumerate(of_leaf):
            result = jnp.moveaxis(jnp.tensordot(matrix, result, (1, axis)), 0, axis)
        return result.reshape(gradient.shape).astype(gradient.dtype)

    def init(params: Params) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(
        updates: PyTree,
        state: optax.EmptyState,
        params: Params | None = None,
        *,
        gate: PyTree | None = None,
        **extra: PyTree,
    ) -> tuple[PyTree, optax.EmptyState]:
        del params, extra
        return map_unmasked(product, mask(updates, gate), matrices), state

    return optax.GradientTransformationExtraArgs(init, update)
