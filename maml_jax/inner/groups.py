"""Groups of parameters that share one learned value: a length, a step size, a momentum.

A grouped tree is a dict from a group's name to its values. For `parameter`, `channel` and `tensor`
the name is the tensor's path ("conv_0/kernel") and the values broadcast to it; for `layer` it is
the path without its last part; `global` has the one name "all".
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from maml_jax.types import Array, Params, PyTree

Grouped = dict[str, Any]  # group's name -> array


class Granularity(NamedTuple):
    """How parameters are grouped."""

    name_of: Callable[[str], str]  # path of a tensor -> name of its group
    shape_of: Callable[[tuple[int, ...]], tuple[int, ...]]  # its shape -> shape of the values


def _channels(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Output channels are the last axis: of a kernel [3, 3, C, F] the F filters."""
    return (1,) * (len(shape) - 1) + tuple(shape[-1:])


GRANULARITIES = {
    "parameter": Granularity(lambda path: path, lambda shape: shape),
    "channel": Granularity(lambda path: path, _channels),
    "tensor": Granularity(lambda path: path, lambda shape: ()),
    "layer": Granularity(lambda path: path.rpartition("/")[0] or path, lambda shape: ()),
    "global": Granularity(lambda path: "all", lambda shape: ()),
}


def path_of(key_path: Any) -> str:
    """A parameter's path as text: "layer/kernel"."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def with_paths(params: Params) -> dict[str, Array]:
    """Path -> tensor, of all tensors but None."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {path_of(key_path): leaf for key_path, leaf in leaves}


def get_granularity(name: str) -> Granularity:
    """A row of `GRANULARITIES`.

    Raises:
      ValueError: the name is unknown.
    """
    if name not in GRANULARITIES:
        raise ValueError(f"granularity={name!r} is unknown; choose from {', '.join(GRANULARITIES)}")
    return GRANULARITIES[name]


def group(
    params: Params, granularity: str, fill: Callable[[int, tuple[int, ...]], Array]
) -> Grouped:
    """Makes a grouped tree over the tensors of params.

    Args:
      params: leaves [*p]; None where a tensor does not adapt.
      granularity: a name in `GRANULARITIES`.
      fill: (index of the group, shape of its values) -> values.

    Example:
      >>> import jax.numpy as jnp
      >>> from maml_jax.inner.groups import group
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
    """A tree like params whose leaves are the values of the tensors' groups."""
    kind = get_granularity(granularity)
    return jax.tree_util.tree_map_with_path(
        lambda key_path, _: grouped[kind.name_of(path_of(key_path))], params
    )
