"""Arithmetic on parameter trees, and the check of arguments that the inner optimizers share."""

import math
import numbers
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maml_jax.settings import Rule
from maml_jax.types import Array, PyTree

Coefficient = PyTree  # a scalar, or a tree that broadcasts to the parameters


def map_unmasked(fn: Callable[..., Array], tree: PyTree, *per_leaf: PyTree) -> PyTree:
    """Maps fn over the leaves of a tree and over what `per_leaf` has in their places.

    None, and leaves that `optax.masked` or `optax.partition` has masked, stay as they are.
    """

    def is_left_out(leaf: Any) -> bool:
        return leaf is None or isinstance(leaf, optax.MaskedNode)

    def apply(leaf: Any, *others: Any) -> Any:
        return leaf if is_left_out(leaf) else fn(leaf, *others)

    return jax.tree.map(apply, tree, *per_leaf, is_leaf=is_left_out)


def scale(coefficient: Coefficient, tree: PyTree) -> PyTree:
    """coefficient · tree, in the dtypes of the tree."""
    if jax.tree_util.treedef_is_leaf(jax.tree.structure(coefficient)):
        return jax.tree.map(lambda x: jnp.asarray(coefficient * x, x.dtype), tree)
    return map_unmasked(lambda x, c: jnp.asarray(c * x, x.dtype), tree, coefficient)


def add(a: PyTree, b: PyTree) -> PyTree:
    """The sum a + b. `optax.tree.add` adds it to 0, which changes the sign of −0."""
    return jax.tree.map(operator.add, a, b)


def dot(a: PyTree, b: PyTree) -> Array:
    """Σ a b over all coordinates. Lower precisions are multiplied and summed in float32."""

    def of_leaf(x: Array, y: Array) -> Array:
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        return jnp.sum(x.astype(dtype) * y.astype(dtype))

    return sum(jax.tree.leaves(jax.tree.map(of_leaf, a, b)), jnp.zeros(()))


def mask(tree: PyTree, gate: PyTree | None) -> PyTree:
    """Replaces the coordinates whose gate is 0 with zeros."""
    if gate is None:
        return tree
    return map_unmasked(lambda x, m: jnp.where(m != 0, x, jnp.zeros_like(x)), tree, gate)


def ratio(
    numerator: Array, denominator: Array, otherwise: Array | float, valid: Array | bool = True
) -> Array:
    """numerator / denominator where valid, else `otherwise`; derivatives are finite in both cases.

    Denominators close to 0 are not valid: the square in the derivative −n/d² would underflow.
    """
    smallest = float(np.finfo(denominator.dtype).tiny) ** 0.4
    valid = valid & (jnp.abs(denominator) > smallest)
    return jnp.where(valid, numerator / jnp.where(valid, denominator, 1.0), otherwise)


def check_numbers(rule: Rule, **values: object) -> None:
    """Checks named arguments that are numbers. Arrays pass, because they may be traced.

    Raises:
      ValueError: a number is infinite, NaN or against the rule.
    """
    for name, value in values.items():
        if not isinstance(value, numbers.Real):
            continue
        if not math.isfinite(value):
            raise ValueError(f"{name}={value} is not finite; use {rule.allowed()}")
        if not rule.holds(value):
            raise ValueError(f"{name}={value} is not allowed; use {rule.allowed()}")


def check_static(name: str, value: Any) -> int:
    """The value as a Python integer, which decides shapes or constants.

    Raises:
      TypeError: it is traced, or no integer.
    """
    try:
        return operator.index(value)
    except TypeError as error:
        raise TypeError(
            f"{name} is no Python integer but of type {type(value).__name__}; with "
            f"optax.inject_hyperparams, use static_args={name!r}"
        ) from error
