"""Meta-parameters for another number of classes than those of training."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from maml_jax.errors import UsageError
from maml_jax.params import path_of
from maml_jax.types import Array, MetaParams

if TYPE_CHECKING:
    from maml_jax.run.build import Experiment


def with_ways(meta_params: MetaParams, trained: "Experiment", wanted: "Experiment") -> MetaParams:
    """Gives the network as many outputs as `wanted` has ways.

    In training every class takes every output, so that no output belongs to a class. Fewer ways
    use the first outputs. Outputs of more ways start at the mean of the trained ones, as do their
    learned step sizes and lengths; the inner steps tell them apart.

    Raises:
      UsageError: there are more ways, but the outputs do not adapt or have a learned matrix.
    """
    templates = (jax.eval_shape(of.init).meta_params for of in (trained, wanted))
    name = f"algorithm={trained.spec.algorithm!r}"

    def resize(key_path: Any, old: Array, new: Array, value: Array) -> Array:
        axes = [axis for axis, size in enumerate(old.shape) if size != new.shape[axis]]
        path = path_of(key_path)
        more = any(new.shape[axis] > old.shape[axis] for axis in axes)
        field, _, tensor = path.partition("/")
        if more and field == "init" and not trained.learned.adapts(tensor):
            raise UsageError(
                f"{name} does not adapt {tensor}, so that outputs of more than "
                f"{trained.spec.task.ways} ways would be alike; use at most as many ways"
            )
        if more and len(axes) > 1:
            raise UsageError(
                f"{name} has learned a matrix of the outputs ({path}), which fits at most "
                f"{trained.spec.task.ways} ways; use at most as many ways"
            )
        for axis in axes:
            value = _resize_axis(value, axis, new.shape[axis])
        return value

    resized: MetaParams = jax.tree_util.tree_map_with_path(resize, *templates, meta_params)
    return resized


def _resize_axis(value: Array, axis: int, size: int) -> Array:
    have = value.shape[axis]
    if size <= have:
        return jax.lax.slice_in_dim(value, 0, size, axis=axis)
    mean = jnp.mean(value, axis, keepdims=True)
    return jnp.concatenate([value, jnp.repeat(mean, size - have, axis)], axis)
