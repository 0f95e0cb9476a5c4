"""Pieces of an inner step: halted coordinates, the proximal term, what the optimizer reads."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import Var

from maml_jax.params import is_float
from maml_jax.types import Array, Params, PyTree


def share_on(gates: PyTree, adapted: Params, params: Params) -> Array:
    """Share of all floating-point parameters whose gate is > 0."""
    total = sum(jnp.size(p) for p in jax.tree.leaves(params) if is_float(p))
    on = [
        jnp.sum(jnp.broadcast_to(gate > 0, jnp.shape(p)), dtype=jnp.float32)
        for gate, p in zip(jax.tree.leaves(gates), jax.tree.leaves(adapted), strict=True)
    ]
    return sum(on, jnp.zeros(())) / max(total, 1)


def keeping_dtypes(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """A transform whose state keeps its dtypes."""
    optimizer = optax.with_extra_args_support(optimizer)

    def update(
        grads: Params, state: PyTree, params: Params | None = None, **extra_args: PyTree
    ) -> tuple[Params, PyTree]:
        directions, new_state = optimizer.update(grads, state, params, **extra_args)
        # A float32 hyper-parameter would promote a bfloat16 state and break the scan's carry.
        return directions, optax.tree.cast_like(new_state, state)

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def add_proximal(
    proximal: float, loss: Array, grads: Params, adapted: Params, origin: Params
) -> tuple[Array, Params]:
    """Value and gradient of loss + λ/2 ‖θ_k − θ‖²."""
    if not proximal:
        return loss, grads
    away = jax.tree.map(jnp.subtract, adapted, origin)
    grads = jax.tree.map(lambda g, d: g + proximal * d, grads, away)
    return loss + proximal_term(proximal, adapted, origin).astype(loss.dtype), grads


def proximal_term(proximal: float, adapted: Params, origin: Params) -> Array:
    """λ/2 ‖θ_k − θ‖²."""
    away = jax.tree.map(jnp.subtract, adapted, origin)
    term: Array = proximal / 2 * optax.tree.norm(away, squared=True)
    return term


def finite_where_halted(halted: PyTree | None, tree: PyTree) -> PyTree:
    """Replaces values that are not finite with 0 where the gate is 0, because 0 · ∞ is NaN."""
    if halted is None:
        return tree
    return jax.tree.map(
        lambda off, x: jnp.where(off & ~jnp.isfinite(x), jnp.zeros_like(x), x), halted, tree
    )


@jax.custom_vjp
def keep_cotangents_finite(params: Params, halted: PyTree) -> Params:
    """Leaves params as they are, but their cotangents as `finite_where_halted` does."""
    del halted
    return params


keep_cotangents_finite.defvjp(
    lambda params, halted: (params, halted),
    lambda halted, cotangent: (finite_where_halted(halted, cotangent), None),
)


def take_step(
    optimizer: optax.GradientTransformationExtraArgs,
    carry: tuple[Params, PyTree],
    gradient: tuple[Array, Params],
    gates: PyTree,
    alphas: PyTree,
    halted: PyTree | None,
) -> tuple[Params, PyTree]:
    """θ − α ∘ m ∘ u and the next state of the optimizer, given (value, gradient) of the loss.

    Where a coordinate is halted, neither u nor the state of the optimizer has to be finite.
    """
    adapted, state = carry
    value, grads = gradient
    grads = finite_where_halted(halted, grads)
    extra_args = make_extra_args(gates, alphas, value, grads)
    directions, state = optimizer.update(grads, state, adapted, **extra_args)
    alphas, directions = (finite_where_halted(halted, of) for of in (alphas, directions))

    def move(p: Array, alpha: Array, gate: Array, direction: Array) -> Array:
        return p - (alpha * gate * direction).astype(p.dtype)

    return jax.tree.map(move, adapted, alphas, gates, directions), state


def make_extra_args(gates: PyTree, alphas: PyTree, value: Array, grads: Params) -> dict[str, Any]:
    """What `update` of an inner optimizer receives, beside gradients, state and parameters."""
    return {
        "gate": gates,
        "step_size": alphas,
        "value": value,
        "grad": grads,
        "value_fn": _no_line_search,
    }


def _no_line_search(params: Params, gate: PyTree, step_size: PyTree) -> Array:
    del params, gate, step_size
    raise ValueError(
        "the inner optimizer calls value_fn to evaluate the loss at other points, as line searches "
        "do, but derivatives do not pass through their loops; use an optimizer without one, as "
        "optax.lbfgs(0.1, linesearch=None) or optax.polyak_sgd()"
    )


def depends_on(fn: Callable[[PyTree], PyTree], at: PyTree) -> bool:
    """Whether fn has a derivative with respect to its argument that is not 0 by construction."""

    def derivative(tangent: PyTree) -> list[Array]:
        tangents = jax.tree.leaves(jax.jvp(fn, (at,), (tangent,))[1])
        return [leaf for leaf in tangents if leaf.dtype != jax.dtypes.float0]

    jaxpr = jax.make_jaxpr(derivative)(at).jaxpr
    reached = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        if any(isinstance(of, Var) and of in reached for of in equation.invars):
            reached.update(equation.outvars)
    return any(isinstance(of, Var) and of in reached for of in jaxpr.outvars)


def reads_loss(optimizer: optax.GradientTransformation, state: PyTree, adapted: Params) -> bool:
    """Whether the direction or the next state has a derivative with respect to the loss."""
    if not isinstance(optimizer, optax.GradientTransformationExtraArgs):
        return False

    def update(value: Array) -> PyTree:
        extra_args = make_extra_args(adapted, adapted, value, adapted)
        return optimizer.update(adapted, state, adapted, **extra_args)

    # Only shapes and dtypes matter, and the parameters have those of gradients, gates and α.
    return depends_on(update, jnp.zeros(()))
