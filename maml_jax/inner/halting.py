"""Gates: how much of each inner step each parameter takes.

A gate function maps (halting, params, k) to a pytree like params whose leaves broadcast to the
parameters' shapes, with values in [0, 1]. It is evaluated inside the scan, at every step k, from
what is learned (`MetaParams.halting`): no [K, p] array is ever stored.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from maml_jax.types import Array, Params, PyTree

GateFn = Callable[[PyTree, Params, Array], PyTree]


def always_on(halting: PyTree, params: Params, k: Array) -> PyTree:
    """The gates of MAML: every parameter takes every step in full."""
    del halting, k
    return jax.tree.map(lambda p: jnp.ones((), p.dtype), params)
