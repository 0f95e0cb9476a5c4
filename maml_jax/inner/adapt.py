"""The inner loop: the only loop over inner steps in the code base."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from maml_jax.inner.gradients import META_GRADIENTS, MetaGradient
from maml_jax.inner.groups import path_of
from maml_jax.inner.halting import GateFn, always_on
from maml_jax.inner.learning_rates import RateFn, broadcast
from maml_jax.inner.optimizers import MakeOptimizer
from maml_jax.types import Adaptation, Array, LossFn, MetaParams, Params, PyTree

AdaptsFn = Callable[[str], bool]  # path of a parameter, "layer/kernel" -> does it adapt?


def everything(path: str) -> bool:
    """Every parameter adapts."""
    del path
    return True


def nothing(params: Params, k: Array) -> tuple[()]:
    """The monitor that watches nothing."""
    del params, k
    return ()


def same_at_every_step(params: Params, k: Array) -> Params:
    """The loss sees the parameters as they are."""
    del k
    return params


def split_params(params: Params, adapts: AdaptsFn) -> tuple[Params, Params]:
    """Splits params into (those that adapt, those that do not), None in the others' places."""

    def select(wanted: bool) -> Params:
        def keep(key_path: Any, leaf: Array) -> Array | None:
            return leaf if adapts(path_of(key_path)) == wanted else None

        return jax.tree_util.tree_map_with_path(keep, params)

    return select(True), select(False)


def merge_params(moving: Params, fixed: Params) -> Params:
    """Undoes `split_params`."""
    return jax.tree.map(
        lambda m, f: f if m is None else m, moving, fixed, is_leaf=lambda leaf: leaf is None
    )


def _share_on(gates: PyTree, moving: Params, params: Params) -> Array:
    total = sum(jnp.size(p) for p in jax.tree.leaves(params))
    on = [
        jnp.sum(jnp.broadcast_to(gate > 0, jnp.shape(p)), dtype=jnp.float32)
        for gate, p in zip(jax.tree.leaves(gates), jax.tree.leaves(moving), strict=True)
    ]
    return sum(on, jnp.zeros(())) / max(total, 1)


def _check(
    make_optimizer: MakeOptimizer,
    meta_params: MetaParams,
    halting: GateFn,
    num_steps: int,
    meta_gradient: str | MetaGradient,
    proximal: float,
) -> MetaGradient:
    if not callable(make_optimizer):
        raise ValueError(
            "the inner optimizer is a transform; give a function of meta_params.optimizer that "
            "makes it: lambda hyper: scale_by_..., or as_direction(optimizer)"
        )
    if halting is always_on and jax.tree.leaves(meta_params.halting):
        raise ValueError(
            "meta_params.halting has learned lengths, but adapt no gates; give "
            "halting=Halting(...).hard or .soft(), or an empty meta_params.halting"
        )
    if num_steps < 0:
        raise ValueError(f"num_steps={num_steps} is negative; use 0 (no adaptation) or more")
    if isinstance(meta_gradient, str):
        if meta_gradient not in META_GRADIENTS:
            names = ", ".join(META_GRADIENTS)
            raise ValueError(f"meta_gradient={meta_gradient!r} is unknown; choose from {names}")
        meta_gradient = META_GRADIENTS[meta_gradient]
    if meta_gradient.needs_proximal and proximal <= 0:
        raise ValueError(f"an implicit meta-gradient with proximal={proximal}; use more than 0")
    return meta_gradient


def _keeping_dtypes(optimizer: optax.GradientTransformation) -> tuple[Any, Any]:
    """init and update(gradients, state, params, **extra_args) of a transform."""
    optimizer = optax.with_extra_args_support(optimizer)

    def update(
        grads: Params, state: PyTree, params: Params, **extra_args: Any
    ) -> tuple[Params, PyTree]:
        directions, new_state = optimizer.update(grads, state, params, **extra_args)
        # A float32 hyper-parameter would promote a bfloat16 state and break the scan's carry.
        return directions, optax.tree.cast_like(new_state, state)

    return optimizer.init, update


def _add_proximal(
    proximal: float, loss: Array, grads: Params, moving: Params, origin: Params
) -> tuple[Array, Params]:
    """Value, without a gradient, and gradient of loss + λ/2 ‖θ_k − θ‖²."""
    if not proximal:
        return loss, grads
    away = jax.tree.map(jnp.subtract, moving, origin)
    squared = jax.lax.stop_gradient(optax.tree.norm(away, squared=True))
    value = loss + (proximal / 2 * squared).astype(loss.dtype)
    return value, jax.tree.map(lambda g, d: g + proximal * d, grads, away)


def _move(params: Params, alphas: PyTree, gates: PyTree, directions: Params) -> Params:
    def move(p: Array, alpha: Array, gate: Array, direction: Array) -> Array:
        return p - (alpha * gate * direction).astype(p.dtype)

    return jax.tree.map(move, params, alphas, gates, directions)


def adapt(
    loss_fn: LossFn,
    make_optimizer: MakeOptimizer,
    meta_params: MetaParams,
    support: PyTree,
    key: Array,
    *,
    num_steps: int,
    halting: GateFn = always_on,
    rates: RateFn = broadcast,
    meta_gradient: str | MetaGradient = "exact",
    proximal: float = 0.0,
    monitor: Callable[[Params, Array], PyTree] = nothing,
    at_step: Callable[[Params, Array], Params] = same_at_every_step,
    start: int = 0,
    carry: PyTree = None,
    adapts: AdaptsFn = everything,
) -> Adaptation:
    """Adapts an initialization to ONE task; vmap it over tasks.

    θ_{k+1} = θ_k − α_k ∘ m_k ∘ u_k,  k = start … start + K − 1, with u_k the direction of the inner
    optimizer at the gradient of loss_fn(θ_k, support, fold_in(key, k)), m_k the gates and α_k the
    step sizes. K = `num_steps` is static; `adapt` by a steps, continued by b steps with start=a and
    the returned carry, equals `adapt` by a + b steps in value and gradient.

    Args:
      loss_fn: (params, support, key) -> (loss [], aux). It may make its own data under params
        (then support is whatever it needs, possibly None), and may close over traced values.
      make_optimizer: meta_params.optimizer -> optax transform that returns descent directions
        (see `maml_jax.inner.optimizers`). Its update receives the extra args `gate`
        and `step_size` (m_k and α_k, trees like the gradients) and `value`, the inner loss with the
        proximal term.
      meta_params: θ in `init`, and what gates, step sizes and the optimizer are made from.
      support: the task's support data, a pytree.
      key: [], a typed PRNG key.
      num_steps: K ≥ 0.
      halting: (meta_params.halting, params, k) -> gates in [0, 1] that broadcast to params.
      rates: (meta_params.learning_rates, params, k) -> step sizes that broadcast to params.
      meta_gradient: `exact`, `reverse`, `first_order`, `implicit` or `reptile`, or a row of one's
        own (see `maml_jax.inner.gradients`).
      proximal: λ of a term λ/2 ‖θ_k − θ‖² in the inner loss, over the parameters that move.
      monitor: (params, k) -> pytree, evaluated before each step and after the last. It carries
        gradients: multi-step losses and accuracy after every step come from it.
      at_step: (params, k) -> what losses and monitor see of them at step k, for parameters that
        hold a row per inner step (MAML++'s normalisation).
      start: index of the first step.
      carry: the `carry` of an earlier piece; None starts from meta_params.init.
      adapts: which parameters move, by path ("layer/kernel"); the others are held at θ.

    Returns:
      An `Adaptation`.

    Raises:
      ValueError: make_optimizer is a transform, meta_params.halting has lengths without gates,
        num_steps is negative, meta_gradient is not a known name, or it is implicit and proximal is
        not positive.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from maml_jax import MetaParams, adapt, sgd
      >>> loss_fn = lambda w, support, key: (0.5 * jnp.sum((w - support) ** 2), ())
      >>> meta_params = MetaParams(init=jnp.zeros(2), learning_rates=0.5)
      >>> adapt(loss_fn, sgd, meta_params, jnp.ones(2), jax.random.key(0), num_steps=2).params
      Array([0.75, 0.75], dtype=float32)

    References:
      Finn, Abbeel, Levine, Model-Agnostic Meta-Learning, ICML 2017, arXiv:1703.03400.
    """
    flow = _check(make_optimizer, meta_params, halting, num_steps, meta_gradient, proximal)
    origin, fixed = split_params(meta_params.init, adapts)
    init_optimizer, update = _keeping_dtypes(make_optimizer(meta_params.optimizer))
    carry = (origin, init_optimizer(origin)) if carry is None else carry
    chex.assert_trees_all_equal_shapes_and_dtypes(carry[0], origin)
    first_step = jnp.asarray(start, jnp.int32)

    def seen(moving: Params, fixed: Params, k: Array) -> Params:
        return at_step(merge_params(moving, fixed), k)

    def watch(moving: Params, k: Array) -> PyTree:
        return monitor(seen(moving, fixed, k), k)

    inner_gradient, closed_over = flow.inner_gradient_of(
        lambda moving, fixed, support, key, k: loss_fn(seen(moving, fixed, k), support, key),
        *(carry[0], fixed, support, key, first_step),
    )

    def step(carry: PyTree, k: Array) -> tuple[PyTree, PyTree]:
        moving, optimizer_state = carry
        step_key = jax.random.fold_in(key, k)
        value, grads = inner_gradient(moving, fixed, support, step_key, k, closed_over)
        loss, aux = jax.lax.stop_gradient(value)
        objective, grads = _add_proximal(proximal, loss, grads, moving, origin)
        gates = halting(meta_params.halting, moving, k)
        alphas = rates(meta_params.learning_rates, moving, k)
        extra_args = {"gate": gates, "step_size": alphas, "value": objective}
        directions, optimizer_state = update(grads, optimizer_state, moving, **extra_args)
        moving = _move(moving, alphas, gates, directions)
        share = _share_on(gates, moving, meta_params.init)
        return (moving, optimizer_state), (loss, aux, share, watch(moving, k + 1))

    first = watch(carry[0], first_step)
    steps = first_step + jnp.arange(num_steps, dtype=jnp.int32)
    carry, (losses, aux, gates_on, watched) = jax.lax.scan(flow.wrap_step(step), carry, steps)
    chex.assert_shape((losses, gates_on), (num_steps,))
    monitored = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, watched)
    last_step = first_step + num_steps
    rest = (fixed, support, jax.random.fold_in(key, last_step), last_step, closed_over)
    moved, fixed = flow.finish(inner_gradient, origin, carry[0], rest, proximal)
    return Adaptation(seen(moved, fixed, last_step), losses, gates_on, monitored, aux, carry)
