"""Step sizes α of the inner loop.

A rate function maps (learning_rates, params, k) to a pytree like params whose leaves broadcast to
the parameters' shapes. Like a gate it is evaluated inside the scan, at every step k.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from maml_jax.types import Array, Params, PyTree

RateFn = Callable[[PyTree, Params, Array], PyTree]


def broadcast(learning_rates: PyTree, params: Params, k: Array) -> PyTree:
    """The same α at every step: a scalar, or a tree of arrays that broadcast to the parameters.

    Args:
      learning_rates: a prefix of params: α for the whole subtree below each of its leaves.
      params: leaves [*p]; None where a leaf does not adapt.
      k: [], the step; not used.

    Returns:
      A tree like params with α in every leaf's dtype.
    """
    del k
    return jax.tree.map(
        lambda alpha, below: jax.tree.map(lambda p: jnp.asarray(alpha, p.dtype), below),
        learning_rates,
        params,
    )
