"""Inner steps restricted to the tensors that still move in a segment of a schedule."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from maml_jax.inner.split import split_known
from maml_jax.inner.step import make_extra_args
from maml_jax.lengths.schedule import Segment
from maml_jax.params import merge_params, split_params
from maml_jax.types import Array, Params, PyTree


class Changing(NamedTuple):
    """What differs between the steps of a segment."""

    params: Params  # the tensors that move, None in place of the others
    k: Array  # []
    key: Array | tuple[()] = ()  # [], of the step


class Part(NamedTuple):
    """A function of what changes, and the values that are constant: fn(changing, values)."""

    fn: Callable[[Changing, PyTree], PyTree]
    values: PyTree

    def narrow(self, segment: Segment, changing: Changing) -> "Part":
        """The same function in a segment, where fewer tensors move; what is known is evaluated.

        Args:
          segment: the segment.
          changing: what changed until now.
        """
        moving, resting = split_params(changing.params, segment.moves)

        def fn(changing: Changing, constant: tuple[Params, PyTree]) -> PyTree:
            resting, values = constant
            params = merge_params(changing.params, resting)
            return self.fn(changing._replace(params=params), values)

        return Part(*split_known(fn, changing._replace(params=moving), (resting, self.values)))


class Restricted(NamedTuple):
    """An inner optimizer of some of the tensors, and how its state relates to that of all."""

    optimizer: optax.GradientTransformationExtraArgs
    state: PyTree
    restore: Callable[[PyTree], PyTree]  # the state of all tensors, given the new one


def restrict(
    optimizer: optax.GradientTransformationExtraArgs,
    state: PyTree,
    moving: Params,
    resting: Params,
) -> Restricted:
    """Makes an optimizer of the tensors that move, which continues from a state of all.

    The optimizer is applied to the smaller tree. If it does not accept that, as one with
    hyper-parameters of its own for every tensor, it gets zeros in place of the others' gradients.

    Args:
      optimizer: the inner optimizer.
      state: its state after the steps so far.
      moving: the tensors that move, None in place of the others.
      resting: the others.
    """
    if not jax.tree.leaves(resting):
        return Restricted(optimizer, state, lambda new: new)
    paths, structure = jax.tree_util.tree_flatten_with_path(state)
    leaves = dict(paths)

    def shapes(tree: PyTree) -> list[Any]:
        return jax.tree_util.tree_flatten_with_path(jax.eval_shape(lambda: tree))[0]

    def of_moving() -> PyTree:
        template = jax.eval_shape(optimizer.init, moving)
        chosen = jax.tree_util.tree_map_with_path(lambda path, _: leaves[path], template)
        extra_args = make_extra_args(moving, moving, jnp.zeros(()), moving)
        _, after = jax.eval_shape(lambda: optimizer.update(moving, chosen, moving, **extra_args))
        if not shapes(chosen) == shapes(template) == shapes(after):
            raise ValueError("the state has other shapes")
        return chosen

    def restore(new: PyTree) -> PyTree:
        updated = leaves | dict(jax.tree_util.tree_flatten_with_path(new)[0])
        return jax.tree.unflatten(structure, [updated[path] for path, _ in paths])

    try:
        return Restricted(optimizer, of_moving(), restore)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return Restricted(_with_zeros(optimizer, resting), state, lambda new: new)


def _with_zeros(
    optimizer: optax.GradientTransformationExtraArgs, resting: Params
) -> optax.GradientTransformationExtraArgs:
    zeros = jax.tree.map(jnp.zeros_like, resting)

    def update(
        grads: Params, state: PyTree, params: Params | None = None, **extra_args: PyTree
    ) -> tuple[Params, PyTree]:
        for name in ("gate", "step_size", "grad"):
            extra_args[name] = merge_params(extra_args[name], zeros)
        directions, state = optimizer.update(
            merge_params(grads, zeros), state, merge_params(params, resting), **extra_args
        )
        return like(directions, grads), state

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def like(tree: PyTree, params: Params) -> PyTree:
    """Puts None in place of what is None in params."""
    return jax.tree.map(
        lambda p, leaf: None if p is None else leaf, params, tree, is_leaf=lambda of: of is None
    )
