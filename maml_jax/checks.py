"""Mistakes of a first use, answered in one line: what was given, and what to give instead."""

import operator
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from maml_jax.params import with_paths
from maml_jax.types import Array, MetaParams, PyTree

_PLAIN = ("tuple", "list")  # without names for their entries
_NUMBERS = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)


def is_array_like(leaf: object) -> bool:
    """Whether a leaf of a pytree is an array or a number."""
    return isinstance(leaf, _NUMBERS)


def describe(value: object) -> str:
    """What a value is, as "a dict" or "a tuple of 3"."""
    if isinstance(value, jax.Array | np.ndarray):
        return f"an array of shape {value.shape}"
    kind = type(value).__name__
    size = f" of {len(value)}" if isinstance(value, tuple | list) and kind in _PLAIN else ""
    return f"a{'n' if kind[0] in 'aeiouAEIOU' else ''} {kind}{size}"


def check_count(name: str, value: Any) -> int:
    """The value as an int.

    Raises:
      TypeError: it is no whole number.
      ValueError: it is below 1.
    """
    try:
        count = operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name}={value!r} is no whole number; use 1 or more") from error
    if count < 1:
        raise ValueError(f"{name}={count} is not allowed; use 1 or more")
    return count


def check_meta_params(meta_params: object) -> None:
    """Checks the type.

    Raises:
      TypeError: it is something else than MetaParams.
    """
    if not isinstance(meta_params, MetaParams):
        raise TypeError(
            f"meta_params is {describe(meta_params)}; give MetaParams(params, step_sizes=0.1) or "
            "state.meta_params"
        )


def loss_and_aux(result: Any, name: str = "loss") -> tuple[Array, PyTree]:
    """The result of a loss, with arrays as leaves of aux.

    Raises:
      TypeError: it is no pair (loss, aux), or a leaf of aux is no array or number.
      ValueError: the loss is no scalar.
    """
    if not (isinstance(result, tuple) and len(result) == 2):
        raise TypeError(
            f"{name} returns {describe(result)}; return (loss, aux), as in `return loss, {{}}`"
        )
    loss, aux = result
    if jnp.shape(loss):
        raise ValueError(
            f"{name} returns a loss of shape {jnp.shape(loss)}; return a scalar, as jnp.mean(loss)"
        )
    for path, leaf in with_paths(aux).items():
        if not is_array_like(leaf):
            raise TypeError(
                f"aux[{path!r}] of {name} is {describe(leaf)}; use numbers and arrays, or leave it "
                "out"
            )
    return loss, jax.tree.map(jnp.asarray, aux)


def support_and_query(episode: Any) -> tuple[PyTree, PyTree]:
    """The two parts of an episode.

    Raises:
      TypeError: it is no pair.
    """
    try:
        if isinstance(episode, Mapping):
            raise TypeError("its keys are no examples")
        support, query = episode
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"an episode is {describe(episode)}; sample_episode must return (support, query), as "
            "Episode(support, query)"
        ) from error
    return support, query


def check_carry(carry: PyTree, first: PyTree) -> PyTree:
    """The carry.

    Raises:
      ValueError: it has another structure, other shapes or other dtypes than the first one.
    """
    try:
        chex.assert_trees_all_equal_shapes_and_dtypes(carry, first)
    except AssertionError as error:
        raise ValueError(
            f"carry is {describe(carry)} that does not continue this inner loop; give the carry of "
            "an Adaptation, or None to start from meta_params.init"
        ) from error
    return carry
