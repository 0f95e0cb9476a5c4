"""Trust-region policy optimization as an outer step."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maml_jax.checks import check_count
from maml_jax.meta.outer import (
    MetaObjective,
    OuterResult,
    OuterStep,
    check_norm,
    optax_outer,
    outer_chain,
)
from maml_jax.types import Array, MetaParams, Metrics, Params, PyTree


class MatVec(Protocol):
    """The product of a symmetric positive definite matrix with a vector."""

    def __call__(self, vector: Params, /) -> Params: ...


def damped(product: MatVec, damping: float) -> MatVec:
    """The product with A + damping · 1, given that with A."""

    def of(vector: Params) -> Params:
        return jax.tree.map(lambda p, v: p + damping * v, product(vector), vector)

    return of


class _Tried(NamedTuple):
    """The line search after some backtracks."""

    number: Array  # [] of tries
    accepted: Array  # [], bool
    ratio: Array  # [] of the full step
    loss: Array  # []
    kl: Array  # []

    def metrics(self, before: Array) -> Metrics:
        """The metrics of the step, given the loss before it."""
        return {
            "kl": jnp.where(self.accepted, self.kl, 0),
            "gain": jnp.where(self.accepted, before - self.loss, 0),
            "backtracks": (self.number - 1).astype(before.dtype),
            "accepted": self.accepted.astype(before.dtype),
        }


def trpo(
    others: optax.GradientTransformation | None = None,
    *,
    max_kl: float = 0.01,
    cg_steps: int = 10,
    damping: float = 1e-5,
    backtrack: float = 0.8,
    max_backtracks: int = 15,
) -> OuterStep:
    """A natural-gradient step of the initialization whose KL divergence is bounded.

    θ ← θ − β^j √(2δ / dᵀFd) d with F d = ∇L, and the least j ≥ 0 for which the loss falls, the KL
    divergence of the adapted policies stays within δ, and no further task becomes non-finite. F is
    the Hessian of the KL divergence, with derivatives through the inner loop. It is linearized
    once, and applied in conjugate gradients. If no j will do, θ stays.

    The objective must be evaluated on recorded data (`TrainStep(record=True)`), and its metrics
    must have the mean divergence "kl" from the policies that acted. New metrics are `kl` after the
    step, `gain` (by how much the loss falls), `backtracks` j and `accepted`.

    Args:
      others: updates the other learned fields of MetaParams as `optax_outer` does: the result of
        an `outer_chain` without "init".
      max_kl: δ.
      cg_steps: number of conjugate-gradient steps.
      damping: added to the diagonal of F.
      backtrack: β.
      max_backtracks: the most tries.

    Raises:
      ValueError: an argument is not allowed.

    References:
      Schulman, Levine, Moritz, Jordan, Abbeel, Trust region policy optimization, ICML 2015,
      arXiv:1502.05477. Finn et al. 2017, arXiv:1703.03400, section 4.2 (across tasks).
    """
    check_norm("max_kl", max_kl)
    check_count("cg_steps", cg_steps)
    check_count("max_backtracks", max_backtracks)
    of_others = optax_outer(outer_chain({}) if others is None else others)
    solve: Callable[..., tuple[Params, object]] = jax.scipy.sparse.linalg.cg

    def step(
        objective: MetaObjective, meta_params: MetaParams, state: PyTree, key: Array
    ) -> OuterResult:
        (loss, (metrics, extras)), grads = objective.value_and_grad(meta_params)
        divergence = objective.metric("kl")

        def at(init: Params) -> MetaParams:
            return meta_params._replace(init=init)

        def gradient(init: Params) -> Params:
            return divergence.value_and_grad(at(init))[1].init

        fisher = damped(jax.linearize(gradient, meta_params.init)[1], damping)
        tiny = float(np.finfo(loss.dtype).eps)
        direction = solve(fisher, grads.init, maxiter=cg_steps, tol=tiny)[0]
        curvature = optax.tree.vdot(direction, fisher(direction))
        length = jnp.where(curvature > 0, jnp.sqrt(2 * max_kl / curvature), 0)

        def candidate(ratio: Array) -> MetaParams:
            return at(optax.tree.add_scale(meta_params.init, -ratio * length, direction))

        def attempt(tried: _Tried) -> _Tried:
            ratio = jnp.asarray(backtrack**tried.number, loss.dtype)
            new, (of_new, _) = objective.value(candidate(ratio))
            accepted = (new < loss) & (of_new["kl"] <= max_kl)
            accepted &= of_new["nonfinite_tasks"] <= metrics["nonfinite_tasks"]
            return _Tried(tried.number + 1, accepted, ratio, new, of_new["kl"])

        def goes_on(tried: _Tried) -> Array:
            return ~tried.accepted & (tried.number < max_backtracks)

        zero = jnp.zeros_like(loss)
        start = _Tried(jnp.zeros((), jnp.int32), jnp.zeros((), bool), zero, loss, zero)
        tried = jax.lax.while_loop(goes_on, attempt, start)
        ratio = jnp.where(tried.accepted, tried.ratio, 0)
        known = objective._replace(value_and_grad=lambda _: ((loss, ()), grads))
        rest = of_others.step(known, meta_params, state, key)
        moved = optax.tree.where(tried.accepted, candidate(ratio).init, meta_params.init)
        return rest._replace(
            meta_params=rest.meta_params._replace(init=moved),
            aux=(metrics | tried.metrics(loss), extras),
        )

    return of_others._replace(step=step, learned=(*(of_others.learned or ()), "init"))
