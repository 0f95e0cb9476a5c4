"""Clipping of inner gradients, which keeps a task with a steep loss from diverging."""

import jax
import jax.numpy as jnp
import optax

from maml_jax.inner.optimizers.tree_math import check_numbers, dot, mask, scale
from maml_jax.settings import positive
from maml_jax.types import Array, Params, PyTree


def clip_by_norm(max_norm: float | Array) -> optax.GradientTransformationExtraArgs:
    """Scales gradients down to an L2 norm over all coordinates: u = g · min(1, c / ‖g‖).

    Unlike `optax.clip_by_global_norm` it is differentiable where the gradient is exactly 0, and
    halted coordinates do not count in the norm. Chain it before an inner optimizer.

    Args:
      max_norm: c > 0.

    Raises:
      ValueError: max_norm is a number that is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from maml_jax.inner.optimizers import clip_by_norm
      >>> clip_by_norm(1.0).update(jnp.array([3.0, 4.0]), ())[0]
      Array([0.6, 0.8], dtype=float32)

    References:
      Pascanu, Mikolov, Bengio, On the difficulty of training recurrent neural networks, ICML 2013.
    """
    check_numbers(positive(), max_norm=max_norm)

    def init(params: Params) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(
        updates: PyTree,
        state: optax.EmptyState,
        params: Params | None = None,
        gate: PyTree | None = None,
        **extra: PyTree,
    ) -> tuple[PyTree, optax.EmptyState]:
        del params, extra
        counted = mask(updates, gate)
        square = dot(counted, counted)
        over = square > jnp.square(max_norm)
        factor = max_norm * jax.lax.rsqrt(jnp.where(over, square, 1.0))
        return scale(jnp.where(over, factor, 1.0), updates), state

    return optax.GradientTransformationExtraArgs(init, update)
