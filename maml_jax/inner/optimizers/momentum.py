"""Momentum methods: heavy ball, Nesterov's method in three forms, OGM and adaptive restarts."""

import operator
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from maml_jax.inner.optimizers.tree_math import (
    Coefficient,
    add,
    check_numbers,
    dot,
    map_unmasked,
    mask,
    scale,
)
from maml_jax.settings import Rule, at_least, between
from maml_jax.types import Array, Params, PyTree


class HeavyBallState(NamedTuple):
    """State of `scale_by_heavy_ball`."""

    momentum: Params  # m, [*p]


def scale_by_heavy_ball(momentum: Coefficient) -> optax.GradientTransformationExtraArgs:
    """Polyak's heavy ball: m ← g + μ m, u = m.

    On a quadratic with spectrum [μ_, L], the fastest contraction is (√κ − 1)/(√κ + 1) per step,
    with α = 4/(√L + √μ_)² and μ the square of that rate.

    Args:
      momentum: μ in [0, 1).

    Raises:
      ValueError: momentum is a number outside [0, 1).

    References:
      Polyak, Some methods of speeding up the convergence of iteration methods, 1964.
    """
    check_numbers(between(0, 1), momentum=momentum)

    def init(params: Params) -> HeavyBallState:
        return HeavyBallState(optax.tree.zeros_like(params))

    def update(
        updates: PyTree, state: HeavyBallState, params: Params | None = None, **extra: PyTree
    ) -> tuple[PyTree, HeavyBallState]:
        del params, extra
        new = add(updates, scale(momentum, state.momentum))
        return new, HeavyBallState(new)

    return optax.GradientTransformationExtraArgs(init, update)


class SequenceFn(Protocol):
    """The coefficients of one extrapolation: (t_k, k) -> (β, γ, t_{k+1})."""

    def __call__(self, t: Array, count: Array, /) -> tuple[Coefficient, Array, Array]: ...


class ExtrapolationState(NamedTuple):
    """State of Nesterov's methods and of OGM."""

    momentum: Params  # m = −(y_k − y_{k−1})/α, [*p], where y are the points before extrapolation
    gradient: PyTree  # g_{k−1}, [*p]; () for methods that do not use it
    beta: Coefficient  # β of the extrapolation that led to the current point
    gamma: Array  # [], γ of that extrapolation
    t: Array  # [], t_k (θ_k in the literature on OGM)
    taken: Array  # [], number of steps taken


def _extrapolation(
    sequence: SequenceFn, *, keeps_gradient: bool = False
) -> optax.GradientTransformationExtraArgs:
    """y_{k+1} = x_k − αg; x_{k+1} = y_{k+1} + β (y_{k+1} − y_k) + γ (y_{k+1} − x_k).

    With m = −(y_{k+1} − y_k)/α = g + β_{k−1} m + γ_{k−1} g_{k−1}, the direction is
    u = g + β m + γ g. γ is only used if `keeps_gradient` is true.
    """

    def init(params: Params) -> ExtrapolationState:
        zero, one = jnp.zeros(()), jnp.ones(())
        beta = jax.tree.map(lambda x: jnp.zeros_like(jnp.asarray(x, float)), sequence(one, zero)[0])
        gradient = optax.tree.zeros_like(params) if keeps_gradient else ()
        count = jnp.zeros((), jnp.int32)
        return ExtrapolationState(optax.tree.zeros_like(params), gradient, beta, zero, one, count)

    def update(
        updates: PyTree, state: ExtrapolationState, params: Params | None = None, **extra: PyTree
    ) -> tuple[PyTree, ExtrapolationState]:
        del params, extra
        momentum = add(updates, scale(state.beta, state.momentum))
        if keeps_gradient:
            momentum = add(momentum, scale(state.gamma, state.gradient))
        beta, gamma, t = sequence(state.t, state.taken)
        direction = add(updates, scale(beta, momentum))
        if keeps_gradient:
            direction = add(direction, scale(gamma, updates))
        beta = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), beta, state.beta)
        gradient = updates if keeps_gradient else ()
        return direction, ExtrapolationState(
            momentum, gradient, beta, jnp.asarray(gamma, state.gamma.dtype), t, state.taken + 1
        )

    return optax.GradientTransformationExtraArgs(init, update)


def scale_by_nesterov(momentum: Coefficient) -> optax.GradientTransformationExtraArgs:
    """Nesterov's method with a constant momentum: m ← g + μ m, u = g + μ m.

    Args:
      momentum: μ in [0, 1).

    Raises:
      ValueError: momentum is a number outside [0, 1).

    References:
      Nesterov, A method of solving a convex programming problem with rate O(1/k²), 1983;
      Sutskever, Martens, Dahl, Hinton, On the importance of initialization and momentum in deep
      learning, ICML 2013.
    """
    check_numbers(between(0, 1), momentum=momentum)
    return _extrapolation(lambda t, count: (momentum, jnp.zeros(()), t))


def scale_by_nesterov_strongly_convex(
    inverse_condition: Coefficient,
) -> optax.GradientTransformationExtraArgs:
    """Nesterov's method for strongly convex functions, with momentum μ = (1 − √q)/(1 + √q).

    With α = 1/L, it contracts a quadratic by a factor of 1 − √q per step.

    Args:
      inverse_condition: q in (0, 1], the smallest curvature divided by the largest one, L.

    Raises:
      ValueError: inverse_condition is a number outside (0, 1].

    References:
      Nesterov, Introductory lectures on convex optimization, 2004, section 2.2.
    """
    rule = Rule(lambda q: 0 < q <= 1, lambda: "more than 0, at most 1")
    check_numbers(rule, inverse_condition=inverse_condition)
    root = jax.tree.map(jnp.sqrt, inverse_condition)
    return scale_by_nesterov(jax.tree.map(lambda r: (1 - r) / (1 + r), root))


def _next_t(t: Array, factor: float | Array = 4.0) -> Array:
    return (1 + jnp.sqrt(1 + factor * t**2)) / 2


def scale_by_nesterov_sequence() -> optax.GradientTransformationExtraArgs:
    """Nesterov's method with the t-sequence (FISTA): β = (t − 1)/t⁺, t⁺ = ½ (1 + √(1 + 4t²)).

    With α = 1/L, the points y before extrapolation satisfy f(y_T) − f* ≤ 2 L R²/(T + 1)², where R
    is the distance from the start to the minimum.

    References:
      Beck, Teboulle, A fast iterative shrinkage-thresholding algorithm, 2009.
    """

    def sequence(t: Array, count: Array) -> tuple[Array, Array, Array]:
        del count
        following = _next_t(t)
        return (t - 1) / following, jnp.zeros(()), following

    return _extrapolation(sequence)


def scale_by_ogm(num_steps: int) -> optax.GradientTransformationExtraArgs:
    """The optimized gradient method: FISTA with an additional γ = t/t⁺ and a different last step.

    With α = 1/L, f(x_T) − f* ≤ L R²/(2 θ_T²). This is half of FISTA's bound, and the best that any
    first-order method achieves on smooth convex functions.

    Args:
      num_steps: T. Step T uses t⁺ = ½ (1 + √(1 + 8t²)). Later steps use FISTA's t⁺ again, and the
        bound does not hold for them.

    Raises:
      ValueError: num_steps is below 1.

    References:
      Kim, Fessler, Optimized first-order methods for smooth convex minimization, 2016.
    """
    check_numbers(at_least(1), num_steps=num_steps)

    def sequence(t: Array, count: Array) -> tuple[Array, Array, Array]:
        following = _next_t(t, jnp.where(count == num_steps - 1, 8.0, 4.0))
        return (t - 1) / following, t / following, following

    return _extrapolation(sequence, keeps_gradient=True)


class RestartState(NamedTuple):
    """State of `adaptive_restart`."""

    inner: PyTree  # state of the wrapped transform
    value: Array  # [], loss of the previous step; +inf before the first one
    restarts: Array  # [], number of restarts


def _is_uphill(
    gradient: PyTree, momentum: PyTree, gate: PyTree | None, step_size: PyTree | None
) -> Array:
    """Whether Σ α · gate · g · m < 0."""
    for factor in (of for of in (gate, step_size) if of is not None):
        momentum = map_unmasked(operator.mul, mask(momentum, factor), factor)
    return dot(gradient, momentum) < 0


def adaptive_restart(
    inner: optax.GradientTransformation, scheme: str = "gradient"
) -> optax.GradientTransformationExtraArgs:
    """Discards the momentum of a transform when it points uphill.

    With scheme `gradient` it restarts when g · (y⁺ − y) > 0, that is Σ α · gate · g · m < 0 for the
    momentum m of `inner`, or for its direction u if it has no momentum. With scheme `value` it
    restarts when the loss has increased, and `update` needs the extra argument `value`. A restart
    replaces the step with one of gradient descent, so α must be below 2/L: a tuned constant
    momentum with α near 4/L diverges where it restarts.

    Args:
      inner: a `scale_by_*` transform. It must return directions u without the factor −α: the
        updates of an optimizer always point downhill, so it would restart at every step. A restart
        begins again from init(params), and a transform made for T steps then counts from 0.
      scheme: `gradient` or `value`. With `value`, halted coordinates count as far as they change
        the loss.

    Raises:
      ValueError: the scheme is unknown, or `value` is missing from an update that needs it.

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
        updates: PyTree, state: RestartState, params: Params | None = None, **extra: PyTree
    ) -> tuple[PyTree, RestartState]:
        gate, step_size, value = (extra.get(key) for key in ("gate", "step_size", "value"))
        continued, kept = inner.update(updates, state.inner, params, **extra)
        start = inner.init(updates if params is None else params)
        restarted, fresh = inner.update(updates, start, params, **extra)
        if scheme == "gradient":
            momentum = getattr(kept, "momentum", continued)
            uphill = _is_uphill(updates, momentum, gate, step_size)
        elif value is None:
            raise ValueError("restart scheme 'value' needs the loss: update(..., value=loss)")
        else:
            uphill = value > state.value
        # Comparisons have no derivative, so the inner loop need not take that of the loss.
        new_value = state.value
        if value is not None:
            new_value = jax.lax.stop_gradient(jnp.asarray(value, state.value.dtype))
        return optax.tree.where(uphill, restarted, continued), RestartState(
            optax.tree.where(uphill, fresh, kept), new_value, state.restarts + uphill
        )

    return optax.GradientTransformationExtraArgs(init, update)
