"""The outer step: how meta-parameters move, given the meta-objective of this meta-step's tasks.

An outer step is a pair (init, step). `step` may evaluate the objective as often as it likes, with
or without gradients, always on the same tasks: one optax update (the default), a line search, or
TRPO's conjugate gradients fit the same pair.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from maml_jax.types import Array, MetaParams, PyTree


class MetaObjective(NamedTuple):
    """The mean over the finite tasks of a meta-batch, over all devices."""

    value: Callable[[MetaParams], tuple[Array, PyTree]]  # -> (loss, aux)
    value_and_grad: Callable[[MetaParams], tuple[tuple[Array, PyTree], MetaParams]]


class OuterResult(NamedTuple):
    """What an outer step leaves behind."""

    meta_params: MetaParams
    outer_state: PyTree
    aux: PyTree  # of the objective, for metrics
    applied: Array  # [], bool: False where a non-finite gradient made it skip the update


class OuterStep(NamedTuple):
    """init(meta_params) -> state; step(objective, meta_params, state, key) -> OuterResult."""

    init: Callable[[MetaParams], PyTree]
    step: Callable[[MetaObjective, MetaParams, PyTree, Array], OuterResult]


def optax_outer(optimizer: optax.GradientTransformation) -> OuterStep:
    """One optax update a meta-step, left out while its gradient is not finite.

    Args:
      optimizer: a transform over MetaParams, such as `outer_chain` makes.
    """
    # apply_if_finite lets NaN in after max_consecutive_errors: never here; the driver stops first.
    optimizer = optax.apply_if_finite(optimizer, max_consecutive_errors=jnp.iinfo(jnp.int32).max)

    def step(
        objective: MetaObjective, meta_params: MetaParams, state: PyTree, key: Array
    ) -> OuterResult:
        del key
        (_, aux), grads = objective.value_and_grad(meta_params)
        updates, state = optimizer.update(grads, state, meta_params)
        return OuterResult(optax.apply_updates(meta_params, updates), state, aux, state.last_finite)

    return OuterStep(optimizer.init, step)


def keep_within(low: float, high: float) -> optax.GradientTransformation:
    """Shortens updates so that the parameters stay in [low, high]: the last link of a chain."""

    def update(updates: PyTree, params: PyTree) -> PyTree:
        return jax.tree.map(lambda u, p: jnp.clip(p + u, low, high) - p, updates, params)

    return optax.stateless(update)


def outer_chain(
    learned: Mapping[str, optax.GradientTransformation],
    *,
    clip: float | None = None,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """One optax chain over MetaParams: an optimizer per learned field, the others held constant.

    Args:
      learned: field of MetaParams -> optimizer of that field.
      clip: clip every gradient element to ±clip first (miniImageNet's MAML: 10); None does not.
      clip_norm: then scale the gradient of all learned fields together down to this L2 norm; those
        of other fields do not count. A task that diverges leaves a gradient of ±clip in every
        element, which Adam's second moment keeps for 1/(1 − b2) meta-steps; one of a bounded norm
        it hardly notices.

    Raises:
      ValueError: a key of `learned` is not a field of MetaParams.

    Example:
      >>> import optax
      >>> from maml_jax import optax_outer, outer_chain
      >>> outer = optax_outer(outer_chain({"init": optax.adam(1e-3)}, clip=10.0))
    """
    unknown = set(learned) - set(MetaParams._fields)
    if unknown:
        raise ValueError(
            f"unknown fields {sorted(unknown)}; MetaParams has {', '.join(MetaParams._fields)}"
        )
    labels = MetaParams(*(f if f in learned else "constant" for f in MetaParams._fields))
    transforms: dict[Any, optax.GradientTransformation] = {
        **learned,
        "constant": optax.set_to_zero(),
    }

    def label_tree(meta_params: MetaParams) -> PyTree:
        return MetaParams(
            *(
                jax.tree.map(lambda _, label=label: label, field)
                for label, field in zip(labels, meta_params, strict=True)
            )
        )

    constant = MetaParams(*(label == "constant" for label in labels))
    clipping = [optax.masked(optax.set_to_zero(), constant)]
    clipping += [] if clip is None else [optax.clip(clip)]
    clipping += [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    return optax.chain(*clipping, optax.partition(transforms, label_tree))
