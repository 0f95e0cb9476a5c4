"""The inner loop, which is the only loop over inner steps in the code base."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import optax

from maml_jax import keys
from maml_jax.inner.meta_gradients import META_GRADIENTS, InnerInputs, MetaGradient
from maml_jax.inner.optimizers.registry import sgd
from maml_jax.inner.step_sizes import broadcast
from maml_jax.lengths.gates import always_on
from maml_jax.params import everything, merge_params, split_params
from maml_jax.types import (
    Adaptation,
    Array,
    AtStepFn,
    GateFn,
    LossFn,
    MakeOptimizer,
    MetaParams,
    Monitor,
    Params,
    PathPredicate,
    PyTree,
    StepSizeFn,
)


def no_monitor(params: Params, k: Array) -> tuple[()]:
    """A monitor that records nothing."""
    del params, k
    return ()


def same_at_every_step(params: Params, k: Array) -> Params:
    """Leaves the parameters as they are."""
    del k
    return params


def _share_on(gates: PyTree, adapted: Params, params: Params) -> Array:
    total = sum(jnp.size(p) for p in jax.tree.leaves(params))
    on = [
        jnp.sum(jnp.broadcast_to(gate > 0, jnp.shape(p)), dtype=jnp.float32)
        for gate, p in zip(jax.tree.leaves(gates), jax.tree.leaves(adapted), strict=True)
    ]
    return sum(on, jnp.zeros(())) / max(total, 1)


def _keeping_dtypes(
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


def _add_proximal(
    proximal: float, loss: Array, grads: Params, adapted: Params, origin: Params
) -> tuple[Array, Params]:
    """Value (a constant for derivatives) and gradient of loss + λ/2 ‖θ_k − θ‖²."""
    if not proximal:
        return loss, grads
    away = jax.tree.map(jnp.subtract, adapted, origin)
    squared = jax.lax.stop_gradient(optax.tree.norm(away, squared=True))
    value = loss + (proximal / 2 * squared).astype(loss.dtype)
    return value, jax.tree.map(lambda g, d: g + proximal * d, grads, away)


def _move(params: Params, alphas: PyTree, gates: PyTree, directions: Params) -> Params:
    def move(p: Array, alpha: Array, gate: Array, direction: Array) -> Array:
        return p - (alpha * gate * direction).astype(p.dtype)

    return jax.tree.map(move, params, alphas, gates, directions)


@dataclasses.dataclass(frozen=True, eq=False)
class InnerLoop:
    """The inner loop of one task: call it to adapt, and vmap it over tasks.

    θ_{k+1} = θ_k − α_k ∘ m_k ∘ u_k,  k = start … start + K − 1, with u_k the direction of the inner
    optimizer at the gradient of loss(θ_k, support, fold_in(key, k)), m_k the gates and α_k the
    step sizes. `dataclasses.replace` makes variants.

    Attributes:
      loss: (params, support, key) -> (loss [], aux). It may generate its own data under params,
        with whatever it needs as support, and it may close over traced values.
      optimizer: meta_params.optimizer -> optax transform that returns descent directions (see
        `maml_jax.inner.optimizers`). Its update receives the extra args `gate` and `step_size`
        (m_k and α_k, trees like the gradients) and `value`, the inner loss with the proximal term.
      num_steps: K ≥ 0, static.
      gates: (meta_params.lengths, params, k) -> gates in [0, 1] that broadcast to params.
      step_sizes: (meta_params.step_sizes, params, k) -> step sizes that broadcast to params.
      meta_gradient: how the meta-gradient is computed, a name in
        `maml_jax.inner.meta_gradients.META_GRADIENTS` or a `MetaGradient` of your own.
      proximal: λ of a term λ/2 ‖θ_k − θ‖² in the inner loss, over the adapted parameters.
      adapts: selects the adapted parameters by path ("layer/kernel"); the others are frozen at θ.
      at_step: (params, k) -> the parameters that losses and monitor see at step k, for parameters
        that hold a row for every inner step (the normalization of MAML++).

    Raises:
      ValueError: `optimizer` is a transform instead of a function that makes one, `num_steps` is
        negative, `meta_gradient` is an unknown name, or it is implicit and `proximal` is not
        positive.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from maml_jax import InnerLoop, MetaParams
      >>> loss = lambda w, support, key: (0.5 * jnp.sum((w - support) ** 2), ())
      >>> inner_loop = InnerLoop(loss, num_steps=2)
      >>> meta_params = MetaParams(jnp.zeros(2), step_sizes=0.5)
      >>> inner_loop(meta_params, jnp.ones(2), jax.random.key(0)).params
      Array([0.75, 0.75], dtype=float32)

    References:
      Finn, Abbeel, Levine, Model-Agnostic Meta-Learning, ICML 2017, arXiv:1703.03400.
    """

    loss: LossFn
    optimizer: MakeOptimizer = sgd
    _: dataclasses.KW_ONLY
    num_steps: int
    gates: GateFn = always_on
    step_sizes: StepSizeFn = broadcast
    meta_gradient: str | MetaGradient = "exact"
    proximal: float = 0.0
    adapts: PathPredicate = everything
    at_step: AtStepFn = same_at_every_step

    def __post_init__(self) -> None:
        """Checks the values."""
        if not callable(self.optimizer):
            raise ValueError(
                "the inner optimizer is a transform; give a function of meta_params.optimizer that "
                "makes it: lambda hyper: scale_by_..., or as_direction(optimizer)"
            )
        if self.num_steps < 0:
            raise ValueError(
                f"num_steps={self.num_steps} is negative; use 0 (no adaptation) or more"
            )
        if self.estimator.needs_proximal and self.proximal <= 0:
            raise ValueError(
                f"an implicit meta-gradient with proximal={self.proximal}; use more than 0"
            )

    @property
    def estimator(self) -> MetaGradient:
        """The estimator of the meta-gradient that `meta_gradient` names."""
        if isinstance(self.meta_gradient, str):
            return META_GRADIENTS.find(self.meta_gradient)
        return self.meta_gradient

    def __call__(
        self,
        meta_params: MetaParams,
        support: PyTree,
        key: Array,
        *,
        monitor: Monitor = no_monitor,
        start: int = 0,
        carry: PyTree = None,
    ) -> Adaptation:
        """Adapts an initialization to ONE task.

        A call with a steps, continued by one with b steps, start=a and the returned carry, equals
        one with a + b steps in value and gradient.

        Args:
          meta_params: θ in `init`, and what gates, step sizes and the optimizer are made from.
          support: the support data of the task, a pytree.
          key: [], a typed PRNG key.
          monitor: (params, k) -> pytree, evaluated before each step and after the last one. It
            carries gradients, and provides multi-step losses and the accuracy after every step.
          start: index of the first step.
          carry: the `carry` of an earlier call; None starts from meta_params.init.

        Raises:
          ValueError: meta_params.lengths has learned lengths, but the loop has no gates.
        """
        if self.gates is always_on and jax.tree.leaves(meta_params.lengths):
            raise ValueError(
                "meta_params.lengths has learned lengths, but the inner loop has no gates; give "
                "gates=Gates(...).hard or .soft(), or an empty meta_params.lengths"
            )
        return _adapt(
            self, meta_params, support, key, monitor, jnp.asarray(start, jnp.int32), carry
        )


def _adapt(
    loop: InnerLoop,
    meta_params: MetaParams,
    support: PyTree,
    key: Array,
    monitor: Monitor,
    first_step: Array,
    carry: PyTree,
) -> Adaptation:
    estimator = loop.estimator
    origin, frozen = split_params(meta_params.init, loop.adapts)
    optimizer = _keeping_dtypes(loop.optimizer(meta_params.optimizer))
    carry = (origin, optimizer.init(origin)) if carry is None else carry
    chex.assert_trees_all_equal_shapes_and_dtypes(carry[0], origin)

    def seen(adapted: Params, frozen: Params, k: Array) -> Params:
        return loop.at_step(merge_params(adapted, frozen), k)

    def watch(adapted: Params, k: Array) -> PyTree:
        return monitor(seen(adapted, frozen, k), k)

    def support_loss(adapted: Params, inputs: InnerInputs) -> tuple[Array, PyTree]:
        params = seen(adapted, inputs.frozen, inputs.k)
        return loop.loss(params, inputs.support, inputs.key)

    inputs = InnerInputs(frozen, support, key, first_step)
    inner_gradient, closed_over = estimator.inner_gradient_of(support_loss, carry[0], inputs)

    def inputs_at(k: Array) -> InnerInputs:
        return InnerInputs(frozen, support, keys.inner_step_key(key, k), k, closed_over)

    def step(carry: PyTree, k: Array) -> tuple[PyTree, PyTree]:
        adapted, optimizer_state = carry
        value, grads = inner_gradient(adapted, inputs_at(k))
        loss, aux = jax.lax.stop_gradient(value)
        objective, grads = _add_proximal(loop.proximal, loss, grads, adapted, origin)
        gates = loop.gates(meta_params.lengths, adapted, k)
        alphas = loop.step_sizes(meta_params.step_sizes, adapted, k)
        extra_args = {"gate": gates, "step_size": alphas, "value": objective}
        directions, optimizer_state = optimizer.update(
            grads, optimizer_state, adapted, **extra_args
        )
        adapted = _move(adapted, alphas, gates, directions)
        share = _share_on(gates, adapted, meta_params.init)
        return (adapted, optimizer_state), (loss, aux, share, watch(adapted, k + 1))

    first = watch(carry[0], first_step)
    steps = first_step + jnp.arange(loop.num_steps, dtype=jnp.int32)
    carry, (losses, aux, gates_on, watched) = jax.lax.scan(estimator.wrap_step(step), carry, steps)
    chex.assert_shape((losses, gates_on), (loop.num_steps,))
    monitored = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, watched)
    last_step = first_step + loop.num_steps
    adapted, frozen = estimator.finish(
        inner_gradient, origin, carry[0], inputs_at(last_step), loop.proximal
    )
    return Adaptation(seen(adapted, frozen, last_step), losses, gates_on, monitored, aux, carry)
