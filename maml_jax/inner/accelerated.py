"""Accelerated first-order methods as optax transforms, for inner loops with learned lengths.

Each `scale_by_*` maps gradients g_k to a direction u_k, for θ_{k+1} = θ_k − α u_k. They are
ordinary optax transforms: pure, differentiable with respect to gradients and hyper-parameters, and
free of Python state. Beside each is an alias with a learning rate, an optimizer: `ogm(0.1, 10)` is
`optax.chain(scale_by_ogm(10), optax.scale(-0.1))`. Those that find a step size of their own run
with α = 1.

Hyper-parameters may be arrays under a trace; a momentum may be a scalar or a tree that broadcasts
to the parameters. Extra arguments of `update`, all optional:

- `gate`: a tree like the gradients whose leaves broadcast to theirs; a coordinate moves by
  α · gate · u.
- `step_size`: α, such a tree.
- `value`: [], the loss at the current parameters, proximal term and all.

Halting. In a transform that works coordinate by coordinate (momentum methods, Chebyshev) a halted
coordinate's state goes on changing and no longer matters. Transforms with inner products over
coordinates leave out those whose gate is 0, now and in their memory, and take the movement
θ_k − θ_{k−1} that really happened: halted coordinates never change the others' direction. The one
exception is a restart by value: it looks at the loss, in which they may count.
Methods made for a final T (OGM's last step, Chebyshev step sizes) take T from the static number of
steps of the call: a coordinate that halts earlier keeps an incomplete polynomial, which costs OGM
a factor 2 in the loss and Chebyshev steps any factor (`python -m experiments.acceleration_rates`).
The Chebyshev semi-iteration is optimal at every prefix instead.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maml_jax.types import Array, Params, PyTree

Coefficient = Any  # a scalar, or a tree that broadcasts to the parameters


def _times(coefficient: Coefficient, tree: PyTree) -> PyTree:
    """coefficient · tree, in the tree's dtypes."""
    if jax.tree_util.treedef_is_leaf(jax.tree.structure(coefficient)):
        return jax.tree.map(lambda x: jnp.asarray(coefficient * x, x.dtype), tree)
    return jax.tree.map(lambda c, x: jnp.asarray(c * x, x.dtype), coefficient, tree)


def _add(*trees: PyTree) -> PyTree:
    return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *trees)


def _subtract(a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(jnp.subtract, a, b)


def _dot(a: PyTree, b: PyTree) -> Array:
    """Σ a b over all coordinates, in float32 or better."""

    def of_leaf(x: Array, y: Array) -> Array:
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        return jnp.sum(x.astype(dtype) * y.astype(dtype))

    return sum(jax.tree.leaves(jax.tree.map(of_leaf, a, b)), jnp.zeros(()))


def _moving(tree: PyTree, gate: PyTree | None) -> PyTree:
    """The coordinates whose gate is not 0; zeros in the others' places."""
    if gate is None:
        return tree
    return jax.tree.map(lambda m, x: jnp.where(m != 0, x, jnp.zeros_like(x)), gate, tree)


def _ratio(
    numerator: Array, denominator: Array, otherwise: Array | float, valid: Array | bool = True
) -> Array:
    """numerator / denominator where valid; both branches have finite derivatives.

    A denominator whose square underflows would make the derivative −n/d² infinite.
    """
    smallest = float(jnp.finfo(denominator.dtype).tiny) ** 0.4
    valid = valid & (jnp.abs(denominator) > smallest)
    return jnp.where(valid, numerator / jnp.where(valid, denominator, 1.0), otherwise)


def _zeros_like(params: Params) -> Params:
    return jax.tree.map(jnp.zeros_like, params)


def _check(valid: bool, name: str, value: Any, allowed: str) -> None:
    if not valid:
        raise ValueError(f"{name}={value} is not allowed; use {allowed}")


def check_numbers(inside: Callable[[Any], bool], allowed: str, **values: Any) -> None:
    """Refuses Python numbers outside their range; arrays, which may be traced, pass."""
    for name, value in values.items():
        _check(not isinstance(value, (int, float)) or inside(value), name, value, allowed)


def _check_momentum(momentum: Any) -> None:
    check_numbers(lambda m: 0 <= m < 1, "0 or more, below 1", momentum=momentum)


def _check_spectrum(smallest: Any, largest: Any) -> None:
    check_numbers(lambda s: s > 0, "more than 0", smallest=smallest)
    if isinstance(smallest, (int, float)):
        check_numbers(lambda s: s >= smallest, f"smallest={smallest} or more", largest=largest)


class HeavyBallState(NamedTuple):
    """Of `scale_by_heavy_ball`."""

    momentum: Params  # m, [*p]


def scale_by_heavy_ball(momentum: Coefficient) -> optax.GradientTransformationExtraArgs:
    """Polyak's heavy ball: m ← g + μ m, u = m.

    On a quadratic with spectrum [μ_, L] it contracts best, by (√κ − 1)/(√κ + 1) a step, with
    α = 4/(√L + √μ_)² and μ the square of that rate.

    Args:
      momentum: μ in [0, 1).

    Raises:
      ValueError: momentum is a number outside [0, 1).

    References:
      Polyak, Some methods of speeding up the convergence of iteration methods, 1964.
    """
    _check_momentum(momentum)

    def update(
        updates: PyTree, state: HeavyBallState, params: Params | None = None, **extra: Any
    ) -> tuple[PyTree, HeavyBallState]:
        del params, extra
        new = _add(updates, _times(momentum, state.momentum))
        return new, HeavyBallState(new)

    return optax.GradientTransformationExtraArgs(
        lambda params: HeavyBallState(_zeros_like(params)), update
    )


class ExtrapolationState(NamedTuple):
    """Of Nesterov's methods and OGM."""

    momentum: Params  # m = −(y_k − y_{k−1})/α, [*p], with y the sequence before extrapolation
    gradient: PyTree  # of the step before, [*p]; () where the method does not need it
    beta: Coefficient  # the coefficients that led to the current point
    gamma: Array  # []
    t: Array  # [], t_k or θ_k
    taken: Array  # [], number of steps taken


# (t_k, k) -> (β, γ, t_{k+1}) of x_{k+1} = y_{k+1} + β (y_{k+1} − y_k) + γ (y_{k+1} − x_k)
SequenceFn = Callable[[Array, Array], tuple[Coefficient, Array, Array]]


def _extrapolation(
    sequence: SequenceFn, *, keeps_gradient: bool = False
) -> optax.GradientTransformationExtraArgs:
    """y_{k+1} = x_k − αg; x_{k+1} = y_{k+1} + β (y_{k+1} − y_k) + γ (y_{k+1} − x_k).

    With m = −(y_{k+1} − y_k)/α = g + β_{k−1} m + γ_{k−1} g_{k−1}: u = g + β m + γ g.
    """

    def init(params: Params) -> ExtrapolationState:
        zero, one = jnp.zeros(()), jnp.ones(())
        beta = jax.tree.map(lambda x: jnp.zeros_like(jnp.asarray(x, float)), sequence(one, zero)[0])
        gradient = _zeros_like(params) if keeps_gradient else ()
        count = jnp.zeros((), jnp.int32)
        return ExtrapolationState(_zeros_like(params), gradient, beta, zero, one, count)

    def update(
        updates: PyTree, state: ExtrapolationState, params: Params | None = None, **extra: Any
    ) -> tuple[PyTree, ExtrapolationState]:
        del params, extra
        momentum = _add(updates, _times(state.beta, state.momentum))
        if keeps_gradient:
            momentum = _add(momentum, _times(state.gamma, state.gradient))
        beta, gamma, t = sequence(state.t, state.taken)
        direction = _add(updates, _times(beta, momentum))
        if keeps_gradient:
            direction = _add(direction, _times(gamma, updates))
        beta = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), beta, state.beta)
        gradient = updates if keeps_gradient else ()
        return direction, ExtrapolationState(
            momentum, gradient, beta, jnp.asarray(gamma, state.gamma.dtype), t, state.taken + 1
        )

    return optax.GradientTransformationExtraArgs(init, update)


def scale_by_nesterov(momentum: Coefficient) -> optax.GradientTransformationExtraArgs:
    """Nesterov's method with constant momentum: m ← g + μ m, u = g + μ m.

    Args:
      momentum: μ in [0, 1).

    Raises:
      ValueError: momentum is a number outside [0, 1).

    References:
      Nesterov, A method of solving a convex programming problem with rate O(1/k²), 1983;
      Sutskever, Martens, Dahl, Hinton, On the importance of initialization and momentum in deep
      learning, ICML 2013.
    """
    _check_momentum(momentum)
    return _extrapolation(lambda t, count: (momentum, jnp.zeros(()), t))


def scale_by_nesterov_strongly_convex(
    inverse_condition: Coefficient,
) -> optax.GradientTransformationExtraArgs:
    """Nesterov's method for strongly convex functions: constant μ = (1 − √q)/(1 + √q).

    With α = 1/L it contracts by 1 − √q a step on a quadratic.

    Args:
      inverse_condition: q = μ/L in (0, 1].

    Raises:
      ValueError: inverse_condition is a number outside (0, 1].

    References:
      Nesterov, Introductory lectures on convex optimization, 2004, section 2.2.
    """
    check_numbers(
        lambda q: 0 < q <= 1, "more than 0, 1 at most", inverse_condition=inverse_condition
    )
    root = jax.tree.map(jnp.sqrt, inverse_condition)
    return scale_by_nesterov(jax.tree.map(lambda r: (1 - r) / (1 + r), root))


def _next_t(t: Array, factor: float | Array = 4.0) -> Array:
    return (1 + jnp.sqrt(1 + factor * t**2)) / 2


def scale_by_nesterov_sequence() -> optax.GradientTransformationExtraArgs:
    """Nesterov's method with the t-sequence (FISTA): β = (t − 1)/t⁺, t⁺ = ½ (1 + √(1 + 4t²)).

    With α = 1/L: f(y_T) − f* ≤ 2 L R²/(T + 1)², y the points before extrapolation.

    References:
      Beck, Teboulle, A fast iterative shrinkage-thresholding algorithm, 2009.
    """

    def sequence(t: Array, count: Array) -> tuple[Array, Array, Array]:
        del count
        following = _next_t(t)
        return (t - 1) / following, jnp.zeros(()), following

    return _extrapolation(sequence)


def scale_by_ogm(num_steps: int) -> optax.GradientTransformationExtraArgs:
    """The optimized gradient method: FISTA with γ = t/t⁺ added, and another last step.

    With α = 1/L: f(x_T) − f* ≤ L R²/(2 θ_T²), half of FISTA's bound and the best of any first-order
    method on smooth convex functions.

    Args:
      num_steps: T, the last of which uses t⁺ = ½ (1 + √(1 + 8t²)); steps beyond go on as FISTA's t
        does, without a promise.

    Raises:
      ValueError: num_steps is below 1.

    References:
      Kim, Fessler, Optimized first-order methods for smooth convex minimization, 2016.
    """
    _check(num_steps >= 1, "num_steps", num_steps, "1 or more")

    def sequence(t: Array, count: Array) -> tuple[Array, Array, Array]:
        following = _next_t(t, jnp.where(count == num_steps - 1, 8.0, 4.0))
        return (t - 1) / following, t / following, following

    return _extrapolation(sequence, keeps_gradient=True)


class RestartState(NamedTuple):
    """Of `adaptive_restart`."""

    inner: PyTree
    value: Array  # [], the loss of the step before; +inf at first
    restarts: Array  # [], how often it restarted


def adaptive_restart(
    inner: optax.GradientTransformation, scheme: str = "gradient"
) -> optax.GradientTransformationExtraArgs:
    """Forgets the momentum of `inner` when it points uphill.

    `gradient`: restarts when g · (y⁺ − y) > 0, i.e. when Σ α · gate · g · m < 0 for the momentum m
    (for a transform without one: its direction u). `value`: restarts when the loss has risen;
    `update` then needs `value`. A step that restarts is one of gradient descent, so that α must be
    below 2/L: tuned constant momentum, with α near 4/L, diverges where it restarts.

    Args:
      inner: a `scale_by_*`, which returns u before any −α (an optimizer's −αu always points
        downhill, and would restart at every step). It starts anew from init(params); one made for a
        final T then counts its steps from 0 again.
      scheme: `gradient` or `value`; by value, halted coordinates matter as far as they matter to
        the loss.

    Raises:
      ValueError: an unknown scheme, or `value` missing from an update that needs it.

    References:
      O'Donoghue, Candès, Adaptive restart for accelerated gradient schemes, 2015.
    """
    if scheme not in ("gradient", "value"):
        raise ValueError(f"restart scheme {scheme!r} is unknown; use 'gradient' or 'value'")
    inner = optax.with_extra_args_support(inner)

    def init(params: Params) -> RestartState:
        value = jnp.full((), jnp.inf, float)
        return RestartState(inner.init(params), value, jnp.zeros((), jnp.int32))

    def update(
        updates: PyTree,
        state: RestartState,
        params: Params | None = None,
        *,
        gate: PyTree | None = None,
        step_size: PyTree | None = None,
        value: Array | None = None,
        **extra: Any,
    ) -> tuple[PyTree, RestartState]:
        extra = {**extra, "gate": gate, "step_size": step_size, "value": value}
        went_on, kept = inner.update(updates, state.inner, params, **extra)
        start = inner.init(updates if params is None else params)
        restarted, fresh = inner.update(updates, start, params, **extra)
        if scheme == "value":
            if value is None:
                raise ValueError("restart scheme 'value' needs the loss: update(..., value=loss)")
            uphill = value > state.value
        else:
            movement = getattr(kept, "momentum", went_on)
            for factor in (of for of in (gate, step_size) if of is not None):
                movement = jax.tree.map(jnp.multiply, factor, _moving(movement, factor))
            uphill = _dot(updates, movement) < 0
        new_value = state.value if value is None else jnp.asarray(value, state.value.dtype)
        return optax.tree.where(uphill, restarted, went_on), RestartState(
            optax.tree.where(uphill, fresh, kept), new_value, state.restarts + uphill
        )

    return optax.GradientTransformationExtraArgs(init, update)


def stable_order(nodes: np.ndarray) -> np.ndarray:
    """Leja's order: each node the farthest, in the product of distances, from those before it.

    Step sizes taken in this order keep all partial products of (1 − α_k h) moderate.
    """
    order, score = [int(np.argmax(np.abs(nodes)))], np.zeros(len(nodes))
    while len(order) < len(nodes):
        with np.errstate(divide="ignore"):  # a node taken is at distance 0 for good
            score += np.log(np.abs(nodes - nodes[order[-1]]))
        order.append(int(np.argmax(score)))
    return np.array(order)


class CountState(NamedTuple):
    """Of `scale_by_chebyshev_steps`."""

    taken: Array  # [], number of steps taken


def scale_by_chebyshev_steps(
    smallest: Array | float, largest: Array | float, num_steps: int
) -> optax.GradientTransformationExtraArgs:
    """Chebyshev step sizes 1/α_k = (L+μ)/2 + (L−μ)/2 · cos((2j−1)π/2T), in a stable order; α = 1.

    After T steps an eigenvector of μ or L is contracted by 1/T_T((κ+1)/(κ−1)), any other by no
    more: the lower bound of all first-order methods. Before T there is no such promise.

    Args:
      smallest: μ > 0, of the spectrum; may be learned.
      largest: L ≥ μ; may be learned.
      num_steps: T; further steps begin the sequence again.

    Raises:
      ValueError: num_steps is below 1, or a bound of the spectrum is a number out of range.

    References:
      Young, On Richardson's method for solving linear systems, 1953;
      Reichel, Newton interpolation at Leja points, 1990 (the order).
    """
    _check(num_steps >= 1, "num_steps", num_steps, "1 or more")
    _check_spectrum(smallest, largest)
    nodes = np.cos((2 * np.arange(1, num_steps + 1) - 1) * np.pi / (2 * num_steps))
    nodes = nodes[stable_order(nodes)]

    def update(
        updates: PyTree, state: CountState, params: Params | None = None, **extra: Any
    ) -> tuple[PyTree, CountState]:
        del params, extra
        node = jnp.asarray(nodes)[state.taken % num_steps]
        step = 1 / ((largest + smallest) / 2 + (largest - smallest) / 2 * node)
        return _times(step, updates), CountState(state.taken + 1)

    return optax.GradientTransformationExtraArgs(
        lambda params: CountState(jnp.zeros((), jnp.int32)), update
    )


class SemiIterationState(NamedTuple):
    """Of `scale_by_chebyshev`."""

    direction: Params  # u_{k−1}, [*p]
    ratio: Array  # [], r_{k−1}
    taken: Array  # [], number of steps taken


def scale_by_chebyshev(
    smallest: Array | float, largest: Array | float
) -> optax.GradientTransformationExtraArgs:
    """The Chebyshev semi-iteration, optimal at every prefix; run with α = 1.

    With d = (L+μ)/2, e = (L−μ)/2, and r_k = ρ_k/e of the literature: u_0 = g_0/d, r_0 = 1/d;
    r_k = 1/(2d − e² r_{k−1}), u_k = e² r_k r_{k−1} u_{k−1} + 2 r_k g_k. L = μ is gradient descent.

    Args:
      smallest: μ > 0, of the spectrum; may be learned.
      largest: L ≥ μ; may be learned.

    Raises:
      ValueError: a bound of the spectrum is a number out of range.

    References:
      Golub, Varga, Chebyshev semi-iterative methods, 1961; Saad, Iterative methods for sparse
      linear systems, algorithm 12.1.
    """
    _check_spectrum(smallest, largest)

    def init(params: Params) -> SemiIterationState:
        return SemiIterationState(_zeros_like(params), jnp.zeros(()), jnp.zeros((), jnp.int32))

    def update(
        updates: PyTree, state: SemiIterationState, params: Params | None = None, **extra: Any
    ) -> tuple[PyTree, SemiIterationState]:
        del params, extra
        center, square = (largest + smallest) / 2, ((largest - smallest) / 2) ** 2
        first = state.taken == 0
        ratio = jnp.where(first, 1 / center, 1 / (2 * center - square * state.ratio))
        new = jnp.where(first, ratio, 2 * ratio)
        kept = _times(square * ratio * state.ratio, state.direction)
        direction = _add(kept, _times(new, updates))
        ratio = jnp.asarray(ratio, state.ratio.dtype)
        return direction, SemiIterationState(direction, ratio, state.taken + 1)

    return optax.GradientTransformationExtraArgs(init, update)


class PreviousState(NamedTuple):
    """Of Barzilai–Borwein."""

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
    """Barzilai–Borwein: u = α_k g with α_k = s·s/s·y (long) or s·y/y·y (short); run with α = 1.

    s = θ_k − θ_{k−1} and y = g_k − g_{k−1} over the coordinates that move. Where s·y is not
    positive the last step size is kept.

    Args:
      initial_step: of the first step; may be learned.
      kind: `long` or `short`.
      smallest: safeguard, the smallest step relative to the initial one.
      largest: safeguard, the largest step relative to the initial one.

    Raises:
      ValueError: an unknown kind, a number out of range, or an update without params.

    References:
      Barzilai, Borwein, Two-point step size gradient methods, 1988.
    """
    if kind not in ("long", "short"):
        raise ValueError(f"Barzilai-Borwein kind {kind!r} is unknown; use 'long' or 'short'")
    check_numbers(lambda step: step > 0, "more than 0", initial_step=initial_step)
    _check(0 < smallest <= 1, "smallest", smallest, "more than 0, 1 at most")
    _check(largest >= 1, "largest", largest, "1 or more")

    def init(params: Params) -> PreviousState:
        # Copies: a buffer cannot be donated twice.
        step = jnp.array(initial_step, float)
        old = _zeros_like(params), _zeros_like(params)
        return PreviousState(*old, step, jnp.zeros((), jnp.int32))

    def update(
        updates: PyTree,
        state: PreviousState,
        params: Params | None = None,
        *,
        gate: PyTree | None = None,
        **extra: Any,
    ) -> tuple[PyTree, PreviousState]:
        del extra
        if params is None:
            raise ValueError(
                "Barzilai-Borwein needs the parameters: update(gradients, state, params)"
            )
        moved = _moving(_subtract(params, state.params), gate)
        change = _moving(_subtract(updates, state.gradient), gate)
        product = _dot(moved, change)
        if kind == "long":
            numerator, denominator = _dot(moved, moved), product
        else:
            numerator, denominator = product, _dot(change, change)
        step = _ratio(numerator, denominator, state.step, (product > 0) & (state.taken > 0))
        step = jnp.clip(step, smallest * initial_step, largest * initial_step)
        step = step.astype(state.step.dtype)
        return _times(step, updates), PreviousState(params, updates, step, state.taken + 1)

    return optax.GradientTransformationExtraArgs(init, update)


class ConjugateState(NamedTuple):
    """Of `scale_by_conjugate_gradient`."""

    gradient: Params  # g_{k−1}, [*p]
    direction: Params  # u_{k−1}, [*p]


def scale_by_conjugate_gradient(kind: str = "pr") -> optax.GradientTransformationExtraArgs:
    """Nonlinear conjugate gradients: u = g + β u_{k−1}.

    `pr`: β = max(0, g·y / g_{k−1}·g_{k−1}) (Polak–Ribière+); `hs`: β = max(0, −g·y / u_{k−1}·y)
    (Hestenes–Stiefel, u points uphill), y = g − g_{k−1}. Where u would not be a descent direction,
    u = g. Inner products are over the coordinates that move. With a constant α well below 1/L every
    β is 0, gradients shrinking without turning: this is gradient descent then.

    Args:
      kind: `pr` or `hs`.

    Raises:
      ValueError: an unknown kind.

    References:
      Nocedal, Wright, Numerical optimization, chapter 5.
    """
    if kind not in ("pr", "hs"):
        raise ValueError(f"conjugate gradient {kind!r} is unknown; use 'pr' or 'hs'")

    def init(params: Params) -> ConjugateState:
        return ConjugateState(_zeros_like(params), _zeros_like(params))

    def update(
        updates: PyTree,
        state: ConjugateState,
        params: Params | None = None,
        *,
        gate: PyTree | None = None,
        **extra: Any,
    ) -> tuple[PyTree, ConjugateState]:
        del params, extra
        gradient, before = _moving(updates, gate), _moving(state.gradient, gate)
        last = _moving(state.direction, gate)
        change = _subtract(gradient, before)
        numerator = _dot(gradient, change)
        if kind == "pr":
            denominator = _dot(before, before)
        else:
            numerator, denominator = -numerator, _dot(last, change)
        beta = _ratio(numerator, denominator, 0.0)
        beta = jnp.where(beta > 0, beta, 0.0)
        direction = _add(updates, _times(beta, last))
        descends = _dot(gradient, _moving(direction, gate)) > 0
        direction = optax.tree.where(descends, direction, updates)
        return direction, ConjugateState(updates, direction)

    return optax.GradientTransformationExtraArgs(init, update)


class AndersonState(NamedTuple):
    """Of `scale_by_anderson`."""

    params: Params  # θ_{k−1}, [*p]
    gradient: Params  # g_{k−1}, [*p]
    moves: Params  # Δθ of the last m steps, [m, *p], the newest first
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


def scale_by_anderson(
    step: Array | float, window: int = 5, *, regularization: float = 1e-4
) -> optax.GradientTransformationExtraArgs:
    """Anderson mixing (type II) of gradient steps of size η; run with α = 1.

    γ = argmin ‖g − ΔG γ‖² + r ‖ΔG‖²/m ‖γ‖², u = η (g − ΔG γ) + ΔΘ γ, with the last m differences of
    gradients ΔG and parameters ΔΘ over the coordinates that move. On a quadratic it is equivalent
    to GMRES while m covers all steps and r is small.

    Args:
      step: η; may be learned.
      window: m ≥ 1.
      regularization: r, relative to the mean square of ΔG's columns. Meta-gradients in float32 need
        about 1e-4: ΔG's columns become parallel, and the derivative of the solution explodes.

    Raises:
      ValueError: a number is out of range, or an update without params.

    References:
      Walker, Ni, Anderson acceleration for fixed-point iterations, 2011.
    """
    _check(window >= 1, "window", window, "1 or more")
    _check(regularization >= 0, "regularization", regularization, "0 or more")
    check_numbers(lambda eta: eta > 0, "more than 0", step=step)

    def init(params: Params) -> AndersonState:
        def histories() -> Params:
            return jax.tree.map(lambda p: jnp.zeros((window, *p.shape), p.dtype), params)

        old = _zeros_like(params), _zeros_like(params)
        return AndersonState(*old, histories(), histories(), jnp.zeros((), jnp.int32))

    def update(
        updates: PyTree,
        state: AndersonState,
        params: Params | None = None,
        *,
        gate: PyTree | None = None,
        **extra: Any,
    ) -> tuple[PyTree, AndersonState]:
        del extra
        if params is None:
            raise ValueError(
                "Anderson mixing needs the parameters: update(gradients, state, params)"
            )
        started = state.taken > 0
        moves = _push(state.moves, _subtract(params, state.params), started)
        changes = _push(state.changes, _subtract(updates, state.gradient), started)
        columns = _rows(jax.vmap(lambda column: _moving(column, gate))(changes), window)
        gradient = _rows(_moving(updates, gate), 1)[0]
        product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        gram = product(columns, columns.T)
        scale = jnp.trace(gram) / window
        eps = jnp.finfo(gram.dtype).tiny ** 0.5
        matrix = gram + (regularization * scale + eps) * jnp.eye(window, dtype=gram.dtype)
        mix = jnp.linalg.solve(matrix, product(columns, gradient))

        def mixed(history: PyTree) -> PyTree:
            return jax.tree.map(lambda h: jnp.tensordot(mix.astype(h.dtype), h, 1), history)

        residual = _subtract(updates, mixed(changes))
        direction = _add(_times(step, residual), mixed(moves))
        return direction, AndersonState(params, updates, moves, changes, state.taken + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def curvature_matrices(params: Params) -> PyTree:
    """Identity matrices for `scale_by_curvature`: of a leaf [d_1, …, d_r] a tuple of r [d_i, d_i].

    Kernel positions of a convolution [h, w, C, F] count as one mode of size h·w.
    """
    return jax.tree.map(lambda p: tuple(jnp.eye(d) for d in _modes(p.shape)), params)


def _modes(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0] * shape[1], *shape[2:]) if len(shape) == 4 else shape


def scale_by_curvature(matrices: PyTree) -> optax.GradientTransformationExtraArgs:
    """Meta-Curvature: u = g ×_1 M_1 ×_2 … ×_r M_r, a learned matrix for every axis of a tensor.

    The products are over the coordinates that move.

    Args:
      matrices: see `curvature_matrices`.

    References:
      Park, Oliva, Meta-Curvature, NeurIPS 2019, arXiv:1902.03356.
    """

    def product(gradient: Array, of_leaf: tuple[Array, ...]) -> Array:
        result = gradient.reshape(_modes(gradient.shape))
        for axis, matrix in enumerate(of_leaf):
            result = jnp.moveaxis(jnp.tensordot(matrix, result, (1, axis)), 0, axis)
        return result.reshape(gradient.shape).astype(gradient.dtype)

    def update(
        updates: PyTree,
        state: optax.EmptyState,
        params: Params | None = None,
        *,
        gate: PyTree | None = None,
        **extra: Any,
    ) -> tuple[PyTree, optax.EmptyState]:
        del params, extra
        return jax.tree.map(product, _moving(updates, gate), matrices), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _optimizer(
    direction: optax.GradientTransformation, learning_rate: optax.ScalarOrSchedule = 1.0
) -> optax.GradientTransformationExtraArgs:
    chain = optax.chain(direction, optax.scale_by_learning_rate(learning_rate))
    return optax.with_extra_args_support(chain)


def heavy_ball(
    learning_rate: optax.ScalarOrSchedule, momentum: Coefficient
) -> optax.GradientTransformationExtraArgs:
    """`scale_by_heavy_ball` with a learning rate."""
    return _optimizer(scale_by_heavy_ball(momentum), learning_rate)


def nesterov(
    learning_rate: optax.ScalarOrSchedule, momentum: Coefficient
) -> optax.GradientTransformationExtraArgs:
    """`scale_by_nesterov` with a learning rate."""
    return _optimizer(scale_by_nesterov(momentum), learning_rate)


def nesterov_strongly_convex(
    learning_rate: optax.ScalarOrSchedule, inverse_condition: Coefficient
) -> optax.GradientTransformationExtraArgs:
    """`scale_by_nesterov_strongly_convex` with a learning rate."""
    return _optimizer(scale_by_nesterov_strongly_convex(inverse_condition), learning_rate)


def nesterov_sequence(
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformationExtraArgs:
    """`scale_by_nesterov_sequence` with a learning rate."""
    return _optimizer(scale_by_nesterov_sequence(), learning_rate)


def ogm(
    learning_rate: optax.ScalarOrSchedule, num_steps: int
) -> optax.GradientTransformationExtraArgs:
    """`scale_by_ogm` with a learning rate."""
    return _optimizer(scale_by_ogm(num_steps), learning_rate)


def chebyshev_steps(
    smallest: Array | float, largest: Array | float, num_steps: int
) -> optax.GradientTransformationExtraArgs:
    """`scale_by_chebyshev_steps` as an optimizer."""
    return _optimizer(scale_by_chebyshev_steps(smallest, largest, num_steps))


def chebyshev(
    smallest: Array | float, largest: Array | float
) -> optax.GradientTransformationExtraArgs:
    """`scale_by_chebyshev` as an optimizer."""
    return _optimizer(scale_by_chebyshev(smallest, largest))


def barzilai_borwein(
    initial_step: Array | float,
    kind: str = "long",
    *,
    smallest: float = 0.1,
    largest: float = 10.0,
) -> optax.GradientTransformationExtraArgs:
    """`scale_by_barzilai_borwein` as an optimizer."""
    return _optimizer(
        scale_by_barzilai_borwein(initial_step, kind, smallest=smallest, largest=largest)
    )


def conjugate_gradient(
    learning_rate: optax.ScalarOrSchedule, kind: str = "pr"
) -> optax.GradientTransformationExtraArgs:
    """`scale_by_conjugate_gradient` with a learning rate."""
    return _optimizer(scale_by_conjugate_gradient(kind), learning_rate)


def anderson(
    step: Array | float, window: int = 5, *, regularization: float = 1e-4
) -> optax.GradientTransformationExtraArgs:
    """`scale_by_anderson` as an optimizer."""
    return _optimizer(scale_by_anderson(step, window, regularization=regularization))


def curvature(
    learning_rate: optax.ScalarOrSchedule, matrices: PyTree
) -> optax.GradientTransformationExtraArgs:
    """`scale_by_curvature` with a learning rate."""
    return _optimizer(scale_by_curvature(matrices), learning_rate)
