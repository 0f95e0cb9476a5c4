"""Step sizes α of the inner loop.

A step-size function maps (meta_params.step_sizes, params, k) to a pytree like params whose leaves
broadcast to the parameters' shapes. Like gates, it is evaluated inside the scan at every step k.

`STEP_SIZES` holds the kinds of step sizes. A step size that many parameters share is learned in log
space and stays positive. Those of Meta-SGD and MAML++ are learned directly, so that they may reach
0 or become negative, as published. That of sparse-ReLU-MAML is relu(x) with the identity as its
derivative.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.tree_util import DictKey

from maml_jax.errors import first_line
from maml_jax.lengths.gates import with_derivative_of
from maml_jax.params import expand, group
from maml_jax.registry import Registry
from maml_jax.types import Array, Params, PyTree, StepSizeFn


@jax.tree_util.register_pytree_with_keys_class
class Learned(dict[str, Array]):
    """A dict of learned values that knows its kind: to another one they mean other step sizes."""

    def __init__(
        self, kind: str, values: Mapping[str, Array] | Iterable[tuple[str, Array]]
    ) -> None:
        """Takes the name of an entry of `STEP_SIZES`, and what its `init` makes."""
        super().__init__(values)
        self.kind = kind

    def tree_flatten_with_keys(self) -> tuple[list[tuple[DictKey, Array]], Any]:
        """The same leaves as those of a dict."""
        names = sorted(self)
        return [(DictKey(name), self[name]) for name in names], (self.kind, tuple(names))

    @classmethod
    def tree_unflatten(cls, kind_and_names: Any, values: Iterable[Array]) -> "Learned":
        """The inverse."""
        kind, names = kind_and_names
        return cls(kind, zip(names, values, strict=True))


def broadcast(step_sizes: PyTree, params: Params, k: Array) -> PyTree:
    """The same α at every step: a scalar, or a tree of arrays that broadcast to the parameters.

    Args:
      step_sizes: a prefix of params, whose leaves hold for the whole subtrees below them if they
        are scalars.
      params: leaves [*p]; None where a leaf is frozen.
      k: [], not used.

    Returns:
      A tree like params with α in the dtype of every leaf.

    Raises:
      ValueError: there are no step sizes, or they do not fit the parameters.
    """
    del k
    if isinstance(step_sizes, Learned):
        entry = f"STEP_SIZES[{step_sizes.kind!r}]"
        raise ValueError(
            f"step_sizes are learned values of {entry}; give InnerLoop(..., "
            f"step_sizes={entry}.at_step)"
        )
    if not jax.tree.leaves(step_sizes) and jax.tree.leaves(params):
        raise ValueError(
            "meta_params has no step sizes; give MetaParams(params, step_sizes=0.1), or 1 for an "
            "inner optimizer with its own step size"
        )
    try:
        return jax.tree.map(_below, step_sizes, params)
    except ValueError as error:
        raise ValueError(
            f"step_sizes do not fit the parameters ({first_line(error)}); give a scalar, "
            "or a tree like the parameters"
        ) from error


def _below(alpha: Array, params: Params) -> PyTree:
    """α for all parameters of a subtree."""
    shape = jnp.shape(alpha)

    def for_leaf(p: Array) -> Array:
        fits = p is params and jnp.broadcast_shapes(shape, p.shape) == p.shape
        if shape and not fits:
            raise ValueError(f"an array of shape {shape} for parameters of shape {p.shape}")
        return jnp.asarray(alpha, p.dtype)

    return jax.tree.map(for_leaf, params)


class InitStepSizes(Protocol):
    """Makes learned values with which all step sizes of the adapted parameters are α."""

    def __call__(self, params: Params, alpha: float, num_steps: int, /) -> PyTree: ...


class StepSizes(NamedTuple):
    """One kind of step sizes: an entry of `STEP_SIZES`."""

    init: InitStepSizes
    at_step: StepSizeFn


def _grouped(
    kind: str,
    granularity: str,
    to_value: Callable[[Array], Array],
    to_step_size: Callable[[Array, Array], Array],
    per_step: bool = False,
) -> StepSizes:
    """Step sizes of groups, with value = to_value(α) and α_k = to_step_size(value, k)."""

    def init(params: Params, alpha: float, num_steps: int) -> PyTree:
        rows = (max(num_steps, 1),) if per_step else ()
        values = group(
            params, granularity, lambda index, shape: to_value(jnp.full((*rows, *shape), alpha))
        )
        return Learned(kind, values)

    def at_step(step_sizes: PyTree, params: Params, k: Array) -> PyTree:
        try:
            if getattr(step_sizes, "kind", kind) != kind:
                raise ValueError(f"they are those of {step_sizes.kind!r}")
            at_k = {name: to_step_size(value, k) for name, value in step_sizes.items()}
            return expand(at_k, params, granularity)
        except (AttributeError, IndexError, KeyError, ValueError) as error:
            raise ValueError(
                f"step_sizes are no learned values of STEP_SIZES[{kind!r}] ({error}); give those "
                f"of STEP_SIZES[{kind!r}].init(params, step_size, num_steps)"
            ) from error

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
        "scalar": _grouped("scalar", "global", jnp.log, _exp),
        "tensor": _grouped("tensor", "tensor", jnp.log, _exp),
        "parameter": _grouped("parameter", "parameter", jnp.array, _as_it_is),
        "tensor_step": _grouped("tensor_step", "tensor", jnp.array, _row, per_step=True),
        "sparse_relu": _grouped("sparse_relu", "parameter", jnp.array, _relu),
    },
)
