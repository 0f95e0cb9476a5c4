"""Methods that remember earlier parameters or gradients: Barzilai-Borwein, CG and Anderson."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maml_jax.inner.optimizers.tree_math import (
    add,
    check_numbers,
    check_static,
    dot,
    mask,
    ratio,
    scale,
)
from maml_jax.settings import Rule, at_least, positive
from maml_jax.types import Array, Params, PyTree


def _require(params: Params | None, method: str) -> None:
    if params is None:
        raise ValueError(f"{method} needs the parameters: update(gradients, state, params)")


class PreviousState(NamedTuple):
    """State of `scale_by_barzilai_borwein`."""

    params: Params  # θ_{k−1}, [*p]
    gradient: Params  # g_{k−1}, [*p]
    step: Array  # [], the last step size
    taken: Array  # [], number of steps taken


def scale_by_barzilai_borwein(
    initial_step: Array | float,
    kind: str = "long",
    *,
    smallest: float = 0.1,
    largest: float = 10.0,
) -> optax.GradientTransformationExtraArgs:
    """Barzilai-Borwein step sizes: u = α_k g with α_k = s·s/s·y (long) or s·y/y·y (short).

    s = θ_k − θ_{k−1} and y = g_k − g_{k−1}, over the coordinates that are not halted. If s·y is not
    positive, the last step size is kept. Use it with the inner loop's step size 1.

    Args:
      initial_step: the first step size; may be learned.
      kind: `long` or `short`.
      smallest: lower limit of the step sizes, relative to the initial one.
      largest: upper limit of the step sizes, relative to the initial one.

    Raises:
      ValueError: the kind is unknown, a number is out of range, or `update` gets no params.

    References:
      Barzilai, Borwein, Two-point step size gradient methods, 1988.
    """
    if kind not in ("long", "short"):
        raise ValueError(f"Barzilai-Borwein kind {kind!r} is unknown; use 'long' or 'short'")
    check_numbers(positive(), initial_step=initial_step)
    check_numbers(Rule(lambda s: 0 < s <= 1, lambda: "more than 0, at most 1"), smallest=smallest)
    check_numbers(at_least(1), largest=largest)

    def init(params: Params) -> PreviousState:
        # Separate copies, because a buffer cannot be donated twice.
        step = jnp.array(initial_step, float)
        old = optax.tree.zeros_like(params), optax.tree.zeros_like(params)
        return PreviousState(*old, step, jnp.zeros((), jnp.int32))

    def update(
        updates: PyTree,
        state: PreviousState,
        params: Params | None = None,
        *,
        gate: PyTree | None = None,
        **extra: PyTree,
    ) -> tuple[PyTree, PreviousState]:
        del extra
        _require(params, "Barzilai-Borwein")
        moved = mask(optax.tree.sub(params, state.params), gate)
        change = mask(optax.tree.sub(updates, state.gradient), gate)
        product = dot(moved, change)
        if kind == "long":
            numerator, denominator = dot(moved, moved), product
        else:
            numerator, denominator = product, dot(change, change)
        step = ratio(numerator, denominator, state.step, (product > 0) & (state.taken > 0))
        step = jnp.clip(step, smallest * initial_step, largest * initial_step)
        step = step.astype(state.step.dtype)
        return scale(step, updates), PreviousState(params, updates, step, state.taken + 1)

    return optax.GradientTransformationExtraArgs(init, update)


class ConjugateState(NamedTuple):
    """State of `scale_by_conjugate_gradient`."""

    gradient: Params  # g_{k−1}, [*p]
    direction: Params  # u_{k−1}, [*p]


def scale_by_conjugate_gradient(kind: str = "pr") -> optax.GradientTransformationExtraArgs:
    """Nonlinear conjugate gradients: u = g + β u_{k−1}.

    With y = g − g_{k−1}, `pr` (Polak-Ribière+) is β = max(0, g·y / g_{k−1}·g_{k−1}) and `hs`
    (Hestenes-Stiefel) is β = max(0, −g·y / u_{k−1}·y), where u points uphill. If u would not be a
    descent direction, u = g. Inner products leave out halted coordinates. With a constant α well
    below 1/L, gradients shrink without turning, so that every β is 0 and this is gradient descent.

    Args:
      kind: `pr` or `hs`.

    Raises:
      ValueError: the kind is unknown.

    References:
      Nocedal, Wright, Numerical optimization, chapter 5.
    """
    if kind not in ("pr", "hs"):
        raise ValueError(f"conjugate gradient {kind!r} is unknown; use 'pr' or 'hs'")

    def init(params: Params) -> ConjugateState:
        return ConjugateState(optax.tree.zeros_like(params), optax.tree.zeros_like(params))

    def update(
        updates: PyTree,
        state: ConjugateState,
        params: Params | None = None,
        *,
        gate: PyTree | None = None,
        **extra: PyTree,
    ) -> tuple[PyTree, ConjugateState]:
        del params, extra
        gradient, before = mask(updates, gate), mask(state.gradient, gate)
        last = mask(state.direction, gate)
        change = optax.tree.sub(gradient, before)
        numerator = dot(gradient, change)
        if kind == "pr":
            denominator = dot(before, before)
        else:
            numerator, denominator = -numerator, dot(last, change)
        beta = ratio(numerator, denominator, 0.0)
        beta = jnp.where(beta > 0, beta, 0.0)
        direction = add(updates, scale(beta, last))
        descends = dot(gradient, mask(direction, gate)) > 0
        direction = optax.tree.where(descends, direction, updates)
        return direction, ConjugateState(updates, direction)

    return optax.GradientTransformationExtraArgs(init, update)


class AndersonState(NamedTuple):
    """State of `scale_by_anderson`."""

    params: Params  # θ_{k−1}, [*p]
    gradient: Params  # g_{k−1}, [*p]
    moves: Params  # Δθ of the last m steps, [m, *p], newest first
    changes: Params  # Δg of the last m steps, [m, *p]
    taken: Array  # [], number of steps taken


def _rows(tree: PyTree, number: int) -> Array:
    """[number, p]: all coordinates of a tree with that leading axis, in float32 or better."""
    rows = [leaf.reshape(number, -1) for leaf in jax.tree.leaves(tree)]
    return jnp.concatenate(rows, axis=1, dtype=jnp.result_type(jnp.float32, *rows))


def _push(history: PyTree, new: PyTree, started: Array) -> PyTree:
    return jax.tree.map(
        lambda old, x: jnp.concatenate([jnp.where(started, x, 0)[None], old[:-1]]), history, new
    )


def _mixing(changes: Array, gradient: Array, regularization: Array | float) -> Array:
    """[m]: γ of `scale_by_anderson`, from ΔG [m, p] and g [p]."""
    window = len(changes)
    product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    gram = product(changes, changes.T)
    mean_square = jnp.trace(gram) / window
    eps = np.finfo(gram.dtype).tiny ** 0.5
    # Parallel columns would make the matrix singular, but for the rounding of its elements.
    rounding = window * np.finfo(gram.dtype).eps
    relative = jnp.maximum(jnp.asarray(regularization, gram.dtype), rounding)
    matrix = gram + (relative * mean_square + eps) * jnp.eye(window, dtype=gram.dtype)
    mixing: Array = jnp.linalg.solve(matrix, product(changes, gradient))
    return mixing


def scale_by_anderson(
    step: Array | float, window: int = 5, *, regularization: Array | float = 1e-4
) -> optax.GradientTransformationExtraArgs:
    """Anderson mixing (type II) of gradient steps of size η.

    u = η (g − ΔG γ) + ΔΘ γ with γ = argmin ‖g − ΔG γ‖² + r ‖ΔG‖²/m ‖γ‖², for the inner loop's step
    size 1. ΔG and ΔΘ are the last m differences of gradients and parameters, and halted coordinates
    are left out of the least-squares problem. On a quadratic, this is equivalent to GMRES as long
    as m covers all steps and r is small.

    Args:
      step: η; may be learned.
      window: m ≥ 1.
      regularization: r, relative to the mean square of ΔG's columns; may be traced. Meta-gradients
        in float32 need about 1e-4: the columns of ΔG become parallel, and the derivative of the
        solution explodes. 0 is taken as the rounding error of the matrix.

    Raises:
      TypeError: the window is traced.
      ValueError: a number is out of range, or `update` gets no params.

    References:
      Walker, Ni, Anderson acceleration for fixed-point iterations, 2011.
    """
    window = check_static("window", window)
    check_numbers(at_least(1), window=window)
    check_numbers(at_least(0), regularization=regularization)
    check_numbers(positive(), step=step)

    def init(params: Params) -> AndersonState:
        def histories() -> Params:
            return jax.tree.map(lambda p: jnp.zeros((window, *p.shape), p.dtype), params)

        old = optax.tree.zeros_like(params), optax.tree.zeros_like(params)
        return AndersonState(*old, histories(), histories(), jnp.zeros((), jnp.int32))

    def update(
        updates: PyTree,
        state: AndersonState,
        params: Params | None = None,
        *,
        gate: PyTree | None = None,
        **extra: PyTree,
    ) -> tuple[PyTree, AndersonState]:
        del extra
        _require(params, "Anderson mixing")
        started = state.taken > 0
        moves = _push(state.moves, optax.tree.sub(params, state.params), started)
        changes = _push(state.changes, optax.tree.sub(updates, state.gradient), started)
        columns = _rows(jax.vmap(lambda column: mask(column, gate))(changes), window)
        mixing = _mixing(columns, _rows(mask(updates, gate), 1)[0], regularization)

        def mixed(history: PyTree) -> PyTree:
            return jax.tree.map(lambda h: jnp.tensordot(mixing.astype(h.dtype), h, 1), history)

        residual = optax.tree.sub(updates, mixed(changes))
        direction = add(scale(step, residual), mixed(moves))
        return direction, AndersonState(params, updates, moves, changes, state.taken + 1)

    return optax.GradientTransformationExtraArgs(init, update)
