"""Step sizes α of the inner loop.

A step-size function maps (meta_params.step_sizes, params, k) to a pytree like params whose leaves
broadcast to the parameters' shapes. Like gates, it is evaluated inside the scan at every step k.

`STEP_SIZES` holds the kinds of step sizes. A step size that many parameters share is learned in log
space and stays positive. Those of Meta-SGD and MAML++ are learned directly, so that they may reach
0 or become negative, as published. That of sparse-ReLU-MAML is relu(x) with the identity as its
derivative.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from maml_jax.lengths.gates import with_derivative_of
from maml_jax.params import expand, group
from maml_jax.registry import Registry
from maml_jax.types import Array, Params, PyTree, StepSizeFn


def broadcast(step_sizes: PyTree, params: Params, k: Array) -> PyTree:
    """The same α at every step: a scalar, or a tree of arrays that broadcast to the parameters.

    Args:
      step_sizes: a prefix of params, whose leaves hold for the whole subtrees below them.
      params: leaves [*p]; None where a leaf is frozen.
      k: [], not used.

    Returns:
      A tree like params with α in the dtype of every leaf.
    """
    del k
    return jax.tree.map(
        lambda alpha, below: jax.tree.map(lambda p: jnp.asarray(alpha, p.dtype), below),
        step_sizes,
        params,
    )


class InitStepSizes(Protocol):
    """Makes learned values with which all step sizes of the adapted parameters are α."""

    def __call__(self, params: Params, alpha: float, num_steps: int, /) -> PyTree: ...


class StepSizes(NamedTuple):
    """One kind of step sizes: an entry of `STEP_SIZES`."""

    init: InitStepSizes
    at_step: StepSizeFn


def _grouped(
    granularity: str,
    to_value: Callable[[Array], Array],
    to_step_size: Callable[[Array, Array], Array],
    per_step: bool = False,
) -> StepSizes:
    """Step sizes of groups, with value = to_value(α) and α_k = to_step_size(value, k)."""

    def init(params: Params, alpha: float, num_steps: int) -> PyTree:
        rows = (max(num_steps, 1),) if per_step else ()
        return group(
            params, granularity, lambda index, shape: to_value(jnp.full((*rows, *shape), alpha))
        )

    def at_step(step_sizes: PyTree, params: Params, k: Array) -> PyTree:
        at_k = {name: to_step_size(value, k) for name, value in step_sizes.items()}
        return expand(at_k, params, granularity)

    return StepSizes(init, at_step)


def _exp(value: Array, k: Array) -> Array:
    del k
    return jnp.exp(value)


def _as_it_is(value: Array, k: Array) -> Array:
    del k
    return value


def _row(value: Array, k: Array) -> Array:
    """The row of step k; later steps than the rows use the last one."""
    return value[jnp.minimum(k, value.shape[0] - 1)]


def _relu(value: Array, k: Array) -> Array:
    del k
    return with_derivative_of(jnp.maximum(value, 0), value)


STEP_SIZES = Registry(
    "kind of step sizes",
    {
        "fixed": StepSizes(lambda params, alpha, num_steps: jnp.asarray(alpha), broadcast),
        "scalar": _grouped("global", jnp.log, _exp),
        "tensor": _grouped("tensor", jnp.log, _exp),
        "parameter": _grouped("parameter", jnp.array, _as_it_is),
        "tensor_step": _grouped("tensor", jnp.array, _row, per_step=True),
        "sparse_relu": _grouped("parameter", jnp.array, _relu),
    },
)
