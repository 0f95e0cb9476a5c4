"""The outer step: how the meta-parameters are updated, given the meta-objective of a meta-step.

An outer step is a pair (init, step). `step` may evaluate the objective any number of times, with or
without gradients, always on the same tasks. One optax update (the default), a line search and the
conjugate gradients of TRPO all have this form.
"""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maml_jax.checks import check_count, describe
from maml_jax.types import Array, MetaParams, PyTree


class ValueFn(Protocol):
    """Maps meta-parameters to (loss [], aux)."""

    def __call__(self, meta_params: MetaParams, /) -> tuple[Array, PyTree]: ...


class ValueAndGradFn(Protocol):
    """Maps meta-parameters to ((loss [], aux), gradient)."""

    def __call__(self, meta_params: MetaParams, /) -> tuple[tuple[Array, PyTree], MetaParams]: ...


class MetricFn(Protocol):
    """Maps the name of a metric to the objective whose loss is its mean over the tasks."""

    def __call__(self, name: str, /) -> "MetaObjective": ...


class MetaObjective(NamedTuple):
    """The mean over the finite tasks of a meta-batch, over all devices."""

    value: ValueFn
    value_and_grad: ValueAndGradFn
    metric: MetricFn


class OuterResult(NamedTuple):
    """The result of an outer step."""

    meta_params: MetaParams
    outer_state: PyTree
    aux: PyTree  # of the objective, for metrics
    applied: Array  # [], bool: False if a non-finite gradient made it skip the update


class InitOuter(Protocol):
    """Makes the state of the outer step from the meta-parameters."""

    def __call__(self, meta_params: MetaParams, /) -> PyTree: ...


class OuterStepFn(Protocol):
    """Updates the meta-parameters and the state of the outer step; the key is for its own use."""

    def __call__(
        self, objective: MetaObjective, meta_params: MetaParams, state: PyTree, key: Array, /
    ) -> OuterResult: ...


class OuterStep(NamedTuple):
    """How the meta-parameters are updated in a meta-step."""

    init: InitOuter
    step: OuterStepFn
    learned: Collection[str] | None = None  # the fields of MetaParams that it learns, if known


def check_outer(outer: object) -> None:
    """Checks that an outer step is no optax optimizer.

    Raises:
      TypeError: it is one.
    """
    if isinstance(outer, optax.GradientTransformation):
        raise TypeError(
            'outer is an optax optimizer; give optax_outer(outer_chain({"init": optimizer})), '
            "which names what is learned"
        )


def check_fields(name: str, fields: Collection[str]) -> None:
    """Checks names of fields of MetaParams.

    Raises:
      ValueError: a field is unknown.
    """
    if unknown := set(fields) - set(MetaParams._fields):
        raise ValueError(
            f"{name} has unknown fields {sorted(unknown)}; MetaParams has "
            f"{', '.join(MetaParams._fields)}"
        )


def check_norm(name: str, norm: float | Array | None) -> None:
    """Checks a bound of gradients, unless it is an array, as in a population.

    Raises:
      ValueError: it is not positive.
    """
    if norm is not None and not isinstance(norm, jax.Array) and not norm > 0:
        raise ValueError(f"{name}={norm} is not allowed; use a positive number, or None")


def optax_outer(optimizer: optax.GradientTransformation, num_updates: int = 1) -> OuterStep:
    """Optax updates on the tasks of a meta-step, each skipped if its gradient is not finite.

    Args:
      optimizer: a transform over MetaParams, such as `outer_chain` makes.
      num_updates: of a meta-step, all on the same tasks; several are meant for recorded data, as
        those of PPO.
    """
    check_count("num_updates", num_updates)
    learned = getattr(optimizer, "learned", MetaParams._fields)
    # apply_if_finite lets NaN in after max_consecutive_errors; the driver stops long before.
    optimizer = optax.apply_if_finite(optimizer, max_consecutive_errors=np.iinfo(np.int32).max)

    def step(
        objective: MetaObjective, meta_params: MetaParams, state: PyTree, key: Array
    ) -> OuterResult:
        del key
        (_, aux), grads = objective.value_and_grad(meta_params)
        updates, state = optimizer.update(grads, state, meta_params)
        new = optax.apply_updates(meta_params, updates)
        if num_updates > 1:
            new, state = jax.lax.fori_loop(1, num_updates, partial(again, objective), (new, state))
        return OuterResult(new, state, aux, state.last_finite)

    def again(
        objective: MetaObjective, _: Array, carry: tuple[MetaParams, Any]
    ) -> tuple[MetaParams, Any]:
        meta_params, state = carry
        grads = objective.value_and_grad(meta_params)[1]
        updates, state = optimizer.update(grads, state, meta_params)
        return optax.apply_updates(meta_params, updates), state

    return OuterStep(optimizer.init, step, learned)


def keep_within(low: float, high: float) -> optax.GradientTransformation:
    """Shortens updates so that the parameters stay in [low, high]; use it last in a chain.

    Infinite parameters stay as they are.
    """

    def update(updates: PyTree, params: PyTree) -> PyTree:
        def shorten(u: Array, p: Array) -> Array:
            return jnp.where(jnp.isfinite(p), jnp.clip(p + u, low, high) - p, 0)  # ∞ − ∞ is NaN

        return jax.tree.map(shorten, updates, params)

    return optax.stateless(update)


class _OuterChain(optax.GradientTransformationExtraArgs):  # type: ignore[misc]
    """A transform over MetaParams that knows which fields it learns."""

    learned: tuple[str, ...]


def outer_chain(
    learned: Mapping[str, optax.GradientTransformation],
    *,
    clip: float | Array | None = None,
    clip_norm: float | Array | None = None,
) -> optax.GradientTransformation:
    """An optax chain over MetaParams, with one optimizer for each learned field.

    Args:
      learned: field of MetaParams -> its optimizer; the other fields are held constant.
      clip: first clips every gradient element to ±clip (10 in MAML on miniImageNet), if not None.
      clip_norm: then scales the gradient of all learned fields together down to this L2 norm. A
        diverged task leaves a gradient of ±clip in every element, which stays in Adam's second
        moment for 1/(1 − b2) meta-steps; a gradient of bounded norm hardly affects it.

    Raises:
      TypeError: `learned` is no mapping to optax optimizers.
      ValueError: a key of `learned` is not a field of MetaParams, or a norm is not positive.

    Example:
      >>> import optax
      >>> from maml_jax import optax_outer, outer_chain
      >>> outer = optax_outer(outer_chain({"init": optax.adam(1e-3)}, clip=10.0))
    """
    if not isinstance(learned, Mapping):
        raise TypeError(
            f"learned is {describe(learned)}; give a dict from fields of MetaParams to optimizers, "
            'as {"init": optax.adam(1e-3)}'
        )
    check_fields("learned", learned)
    for field, optimizer in learned.items():
        if not isinstance(optimizer, optax.GradientTransformation):
            raise TypeError(
                f"learned[{field!r}] is {describe(optimizer)}; give an optax optimizer, as "
                "optax.adam(1e-3)"
            )
    check_norm("clip", clip)
    check_norm("clip_norm", clip_norm)
    labels = MetaParams(*(f if f in learned else "constant" for f in MetaParams._fields))
    transforms = {**learned, "constant": optax.set_to_zero()}

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
    chain = _OuterChain(*optax.chain(*clipping, optax.partition(transforms, label_tree)))
    chain.learned = tuple(learned)
    return chain
