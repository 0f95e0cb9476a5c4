"""Parameter trees: paths, groups that share one learned value, adapted and frozen parameters.

A grouped tree is a dict from a group's name to its values. For `parameter`, `channel` and `tensor`
the name is the tensor's path ("conv_0/kernel") and the values broadcast to it; for `layer` it is
the path without its last part; `global` has the one name "all".
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from maml_jax.types import Array, Params, PathPredicate, PyTree

Grouped = dict[str, Array]  # name of the group -> its values
Shape = tuple[int, ...]
KeyPath = tuple[Any, ...]  # the keys of jax.tree_util


class NameOf(Protocol):
    """Maps the path of a tensor to the name of its group."""

    def __call__(self, path: str, /) -> str: ...


class ShapeOf(Protocol):
    """Maps the shape of a tensor to the shape of its group's values."""

    def __call__(self, shape: Shape, /) -> Shape: ...


class FillFn(Protocol):
    """Makes the values of a group from its index and their shape."""

    def __call__(self, index: int, shape: Shape, /) -> Array: ...


class Granularity(NamedTuple):
    """A way to group parameters: an entry of `GRANULARITIES`."""

    name_of: NameOf
    shape_of: ShapeOf


def _channels(shape: Shape) -> Shape:
    """Output channels are the last axis, such as the F filters of a kernel [3, 3, C, F]."""
    return (1,) * (len(shape) - 1) + tuple(shape[-1:])


GRANULARITIES = {
    "parameter": Granularity(lambda path: path, lambda shape: shape),
    "channel": Granularity(lambda path: path, _channels),
    "tensor": Granularity(lambda path: path, lambda shape: ()),
    "layer": Granularity(lambda path: path.rpartition("/")[0] or path, lambda shape: ()),
    "global": Granularity(lambda path: "all", lambda shape: ()),
}


def path_of(key_path: KeyPath) -> str:
    """The path of a parameter as text, such as "layer/kernel"."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def with_paths(params: Params) -> dict[str, Array]:
    """Maps paths to tensors; None is left out.

    Raises:
      ValueError: two leaves have the same path.
    """
    tensors: dict[str, Array] = {}
    for key_path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        path = path_of(key_path)
        if path in tensors:
            raise ValueError(
                f"two leaves have the path {path!r}: a key that contains '/' stands beside nested "
                "keys; rename one of them"
            )
        tensors[path] = leaf
    return tensors


def everything(path: str) -> bool:
    """Selects every parameter."""
    del path
    return True


def same_at_every_step(tree: PyTree, k: Array) -> PyTree:
    """Leaves parameters or data as they are."""
    del k
    return tree


def split_params(params: Params, adapts: PathPredicate) -> tuple[Params, Params]:
    """Splits params into (adapted, frozen), each with None in place of the other's leaves."""

    def select(wanted: bool) -> Params:
        def keep(key_path: KeyPath, leaf: Array) -> Array | None:
            return leaf if adapts(path_of(key_path)) == wanted else None

        return jax.tree_util.tree_map_with_path(keep, params)

    return select(True), select(False)


def check_adapted(params: Params, adapts: PathPredicate) -> None:
    """Checks that `adapts` selects parameters, and only such as can adapt.

    Raises:
      ValueError: it selects none, or one that is not floating-point, or two have the same path.
    """
    tensors = with_paths(params)
    adapted = {path: leaf for path, leaf in tensors.items() if adapts(path)}
    if tensors and not adapted:
        raise ValueError(f"adapts selects none of the parameters; they are {', '.join(tensors)}")
    for path, leaf in adapted.items():
        if not is_float(leaf):
            raise ValueError(
                f"parameter {path!r} of type {jnp.result_type(leaf)} cannot adapt, as it is not "
                f"floating-point; exclude it: adapts=lambda path: path != {path!r}"
            )


def is_float(leaf: Array) -> bool:
    """Whether a leaf has a derivative; counters, masks and random keys have none."""
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.inexact))


def split_floats(tree: PyTree) -> tuple[PyTree, PyTree]:
    """Splits a tree into (leaves with a derivative, others), each with None for the others'."""

    def select(wanted: bool) -> PyTree:
        return jax.tree.map(lambda leaf: leaf if is_float(leaf) == wanted else None, tree)

    return select(True), select(False)


def merge_params(adapted: Params, frozen: Params) -> Params:
    """The inverse of `split_params` and `split_floats`."""
    return jax.tree.map(
        lambda a, f: f if a is None else a, adapted, frozen, is_leaf=lambda leaf: leaf is None
    )


def get_granularity(name: str) -> Granularity:
    """Returns an entry of `GRANULARITIES`.

    Raises:
      ValueError: the name is unknown.
    """
    if name not in GRANULARITIES:
        raise ValueError(f"granularity={name!r} is unknown; choose from {', '.join(GRANULARITIES)}")
    return GRANULARITIES[name]


def group(params: Params, granularity: str, fill: FillFn) -> Grouped:
    """Makes a grouped tree over the tensors of params.

    Args:
      params: leaves [*p]; None where a tensor is frozen.
      granularity: a name in `GRANULARITIES`.
      fill: (index of the group, shape of its values) -> values.

    Example:
      >>> import jax.numpy as jnp
      >>> from maml_jax.params import group
      >>> params = {"conv": {"kernel": jnp.ones((3, 3, 1, 2)), "bias": jnp.ones(2)}}
      >>> jnp.shape(group(params, "channel", lambda index, shape: jnp.zeros(shape))["conv/kernel"])
      (1, 1, 1, 2)
      >>> list(group(params, "layer", lambda index, shape: jnp.zeros(shape)))
      ['conv']
    """
    kind = get_granularity(granularity)
    shapes = {
        kind.name_of(path): kind.shape_of(jnp.shape(leaf))
        for path, leaf in with_paths(params).items()
    }
    return {name: fill(index, shape) for index, (name, shape) in enumerate(shapes.items())}


def expand(grouped: Grouped, params: Params, granularity: str) -> PyTree:
    """Returns a tree like params whose leaves are the values of the tensors' groups.

    Raises:
      ValueError: a tensor's group has no values.
    """
    kind = get_granularity(granularity)

    def values_of(key_path: KeyPath, _: Array) -> Array:
        name = kind.name_of(path_of(key_path))
        if name not in grouped:
            given = ", ".join(grouped) or "none"
            raise ValueError(f"parameter group {name!r} has no values; there are values of {given}")
        return grouped[name]

    return jax.tree_util.tree_map_with_path(values_of, params)
