"""A run that starts from what another one has learned."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from maml_jax.errors import UsageError
from maml_jax.params import path_of, with_paths
from maml_jax.run.build import Experiment
from maml_jax.run.config import flatten
from maml_jax.run.messages import note
from maml_jax.run.model import Model
from maml_jax.run.spec import RunSpec
from maml_jax.types import Array, MetaParams, TrainState

_LEARNED_LIKE = {  # fields of MetaParams beside the initialization -> what both runs must share
    "step_sizes": ("inner.step_sizes",),
    "lengths": ("lengths.gate", "lengths.granularity"),
    "optimizer": ("inner.optimizer", "inner.learn_optimizer"),
}


def _not_taken(old: RunSpec, new: RunSpec) -> dict[str, str]:
    """Fields that the new run does not take, and why; empty if there is nothing to take."""
    reasons = {}
    before, now = (dict(flatten(dataclasses.asdict(spec))) for spec in (old, new))
    for field, keys in _LEARNED_LIKE.items():
        unlike = [f"{k}={before[k]!r} there, {now[k]!r} here" for k in keys if before[k] != now[k]]
        if unlike or not getattr(new, f"learns_{field}"):
            reasons[field] = "; ".join(unlike) if getattr(old, f"learns_{field}") else ""
    return reasons


def start_from(model: Model, experiment: Experiment) -> TrainState:
    """The initial state of a run, with the learned values of a model where they fit.

    The initialization is always taken; learned step sizes, lengths and hyper-parameters of the
    inner optimizer if both runs learn them in the same way. A value fits a tensor of the same path
    and shape; of outputs there may be fewer or more. What does not fit is named in a note.

    Raises:
      UsageError: no matrix or kernel of the initialization fits.
    """
    source, ways = model.experiment, experiment.problem.ways
    both_have_ways = ways and source.problem.ways
    given = with_paths(model.for_ways(ways)[1] if both_have_ways else model.meta_params)
    reasons = _not_taken(source.spec, experiment.spec)
    left = [f"{field} ({reason})" for field, reason in reasons.items() if reason]
    taken: dict[str, Array] = {}

    def replace(key_path: Any, new: Array) -> Array:
        path = path_of(key_path)
        field, old = path.partition("/")[0], given.get(path)
        if field in reasons:
            return new
        if old is None or jnp.shape(old) != jnp.shape(new):
            have = "missing" if old is None else list(jnp.shape(old))
            left.append(f"{path} ({have} there, {list(jnp.shape(new))} here)")
            return new
        if field == "lengths" and experiment.learned.gates is not None:
            old = jnp.clip(old, *experiment.learned.gates.bounds)
        taken[path] = old.astype(new.dtype)
        return taken[path]

    def change(first: MetaParams) -> MetaParams:
        changed: MetaParams = jax.tree_util.tree_map_with_path(replace, first)
        return changed

    state = experiment.init(change)
    name = experiment.spec.init_from
    if not any(path.startswith("init/") and of.ndim > 1 for path, of in taken.items()):
        raise UsageError(
            f"init_from={name!r} does not fit the network ({'; '.join(left[:3])}); use a model "
            "that was trained with the same model.* and inputs"
        )
    note(f"init_from={name}: {len(taken)} learned values are taken")
    if left:
        note(f"init_from={name}: not taken: {'; '.join(left)}")
    return state
