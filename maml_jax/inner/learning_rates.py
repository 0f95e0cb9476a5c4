"""Step sizes α of the inner loop.

A rate function maps (learning_rates, params, k) to a pytree like params whose leaves broadcast to
the parameters' shapes. Like a gate it is evaluated inside the scan, at every step k.

`RATES` has the kinds. Those with one positive rate for many parameters are learned in log space;
Meta-SGD's and MAML++'s are learned as they are, so that a rate may reach 0 or turn its sign, as
published; sparse-ReLU-MAML's is relu(x) with the identity as its derivative.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from maml_jax.inner.groups import expand, group
from maml_jax.inner.halting import with_derivative_of
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


class Rates(NamedTuple):
    """One kind of step sizes."""

    init: Callable[[Params, float, int], PyTree]  # (params that adapt, α, K) -> learned values
    rates: RateFn


def _grouped(
    granularity: str,
    to_value: Callable[[Array], Array],
    to_rate: Callable[[Array, Array], Array],
    per_step: bool = False,
) -> Rates:
    """Rates of groups: value = to_value(α), α_k = to_rate(value, k)."""

    def init(params: Params, alpha: float, num_steps: int) -> PyTree:
        rows = (max(num_steps, 1),) if per_step else ()
        return group(
            params, granularity, lambda index, shape: to_value(jnp.full((*rows, *shape), alpha))
        )

    def rates(learning_rates: PyTree, params: Params, k: Array) -> PyTree:
        at_k = {name: to_rate(value, k) for name, value in learning_rates.items()}
        return expand(at_k, params, granularity)

    return Rates(init, rates)


def _exp(value: Array, k: Array) -> Array:
    del k
    return jnp.exp(value)


def _as_it_is(value: Array, k: Array) -> Array:
    del k
    return value


def _row(value: Array, k: Array) -> Array:
    """The row of step k; steps past the last row take the last one."""
    return value[jnp.minimum(k, value.shape[0] - 1)]


def _relu(value: Array, k: Array) -> Array:
    del k
    return with_derivative_of(jnp.maximum(value, 0), value)


RATES = {
    "fixed": Rates(lambda params, alpha, num_steps: jnp.asarray(alpha), broadcast),
    "scalar": _grouped("global", jnp.log, _exp),
    "tensor": _grouped("tensor", jnp.log, _exp),
    "parameter": _grouped("parameter", jnp.array, _as_it_is),
    "tensor_step": _grouped("tensor", jnp.array, _row, per_step=True),
    "sparse_relu": _grouped("parameter", jnp.array, _relu),
}
