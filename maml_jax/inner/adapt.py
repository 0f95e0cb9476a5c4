"""The inner loop, which is the only loop over inner steps in the code base."""

import dataclasses
from typing import cast

import chex
import jax
import jax.numpy as jnp

from maml_jax.checks import check_carry, check_meta_params, loss_and_aux
from maml_jax.inner.meta_gradients import (
    META_GRADIENTS,
    MetaGradient,
    through_the_steps,
)
from maml_jax.inner.optimizers.direction import check_direction
from maml_jax.inner.optimizers.registry import sgd
from maml_jax.inner.restricted import Changing, Part, like
from maml_jax.inner.step import (
    depends_on,
    keeping_dtypes,
    reads_loss,
    take_step,
)
from maml_jax.inner.step_sizes import broadcast
from maml_jax.inner.task import Task
from maml_jax.lengths.gates import always_on
from maml_jax.lengths.schedule import Schedule, Segment
from maml_jax.params import (
    check_adapted,
    everything,
    merge_params,
    same_at_every_step,
    split_floats,
    split_params,
    with_paths,
)
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
    SupportAtFn,
)


def no_monitor(params: Params, k: Array) -> tuple[()]:
    """A monitor that records nothing."""
    del params, k
    return ()


@jax.custom_vjp
def _without_derivative(monitored: PyTree) -> PyTree:
    """Refuses derivatives of what a monitor has seen."""
    return monitored


def _refuse_derivative(residuals: None, cotangent: PyTree) -> tuple[PyTree]:
    raise ValueError(
        "the meta-gradients reptile and implicit differentiate the adapted parameters alone, not "
        "what a monitor sees; use meta_gradient='exact', or a loss of Adaptation.params"
    )


_without_derivative.defvjp(lambda monitored: (monitored, None), _refuse_derivative)


_CONSTANT = {  # why a field of MetaParams may have no derivative
    "lengths": "the gates have no derivative, as those of Gates.hard",
    "step_sizes": "the step sizes of the inner loop do not depend on it",
    "optimizer": "the inner optimizer does not depend on it",
}


@dataclasses.dataclass(frozen=True, eq=False)
class InnerLoop:
    """The inner loop of one task: call it to adapt, and vmap it over tasks.

    θ_{k+1} = θ_k − α_k ∘ m_k ∘ u_k,  k = start … start + K − 1, with u_k the direction of the inner
    optimizer at the gradient of loss(θ_k, support, fold_in(key, k)), m_k the gates and α_k the
    step sizes. `dataclasses.replace` makes variants.

    Attributes:
      loss: (params, support, key) -> (loss [], aux). It may generate its own data under params,
        with whatever it needs as support, and it may close over traced values.
      optimizer: meta_params.optimizer -> optax transform that returns directions, which
        the loop subtracts (see `maml_jax.inner.optimizers`). Its update receives the extra args
        `gate` and `step_size` (m_k and α_k, trees like the gradients), and `value` and `grad`,
        those of the inner loss with the proximal term.
      num_steps: K ≥ 0, static.
      gates: (meta_params.lengths, params, k) -> gates in [0, 1] that broadcast to params.
      step_sizes: (meta_params.step_sizes, params, k) -> step sizes that broadcast to params.
      meta_gradient: how the meta-gradient is computed, a name in
        `maml_jax.inner.meta_gradients.META_GRADIENTS` or a `MetaGradient` of your own.
      proximal: λ of a term λ/2 ‖θ_k − θ‖² in the inner loss, over the adapted parameters.
      adapts: selects the adapted parameters by path ("layer/kernel"); the others are frozen at θ.
      at_step: (params, k) -> the parameters that losses and monitor see at step k, for parameters
        that hold a row for every inner step (the normalization of MAML++).
      support_at: (support, k) -> the data of the support loss at step k, for data that differ from
        step to step: mini-batches, or what the loss itself has made (`Objective.record`).
      schedule: which tensors move in which steps, known when the loop is compiled: the others are
        not differentiated (`maml_jax.lengths.schedule_of`). None: all of them, in all steps.
      checkpoint_segments: in how many pieces the steps are cut for the backward pass, which keeps
        the parameters between pieces and recomputes what lies within. None: √K from K = 32 on.

    Raises:
      ValueError: `optimizer` is a transform instead of a function that makes one, or makes one
        that points downhill, as those of optax (found where it ignores its argument); `num_steps`
        is negative; `meta_gradient` is an unknown name, or it is implicit and `proximal` is not
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
    support_at: SupportAtFn = same_at_every_step
    schedule: Schedule | None = None
    checkpoint_segments: int | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        if not callable(self.optimizer):
            raise ValueError(
                "the inner optimizer is a transform; give a function of meta_params.optimizer that "
                "makes it: lambda hyper: scale_by_..., or as_direction(optimizer)"
            )
        check_direction(self.optimizer)
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

    def why_constant(self, meta_params: MetaParams, field: str) -> str | None:
        """Why the result has no derivative in a field of MetaParams; None if it has one."""
        if field == "init":
            return None
        if self.estimator.only_init:
            kind = self.meta_gradient if isinstance(self.meta_gradient, str) else "a meta-gradient"
            return f"{kind} differentiates the initialization alone"
        if not self.num_steps:
            return "num_steps=0 takes no step"
        origin, _ = split_params(meta_params.init, self.adapts)
        floats, others = split_floats(getattr(meta_params, field))
        k = jnp.zeros((), jnp.int32)

        def step(floats: PyTree) -> PyTree:
            given = meta_params._replace(**{field: merge_params(floats, others)})
            gates = self.gates(given.lengths, origin, k)
            alphas = self.step_sizes(given.step_sizes, origin, k)
            optimizer = keeping_dtypes(self.optimizer(given.optimizer))
            carry = (origin, optimizer.init(origin))
            return take_step(optimizer, carry, (jnp.zeros(()), origin), gates, alphas, None)

        return None if depends_on(step, floats) else _CONSTANT[field]

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
          TypeError: meta_params is no MetaParams, or the loss returns no pair.
          ValueError: meta_params.lengths has learned lengths, but the loop has no gates; `adapts`
            selects no parameter or one that is not floating-point; two parameters have the same
            path; or the optimizer is a line search.
        """
        check_meta_params(meta_params)
        if self.gates is always_on and jax.tree.leaves(meta_params.lengths):
            raise ValueError(
                "meta_params.lengths has learned lengths, but the inner loop has no gates; give "
                "gates=Gates(...).hard or .soft(), or an empty meta_params.lengths"
            )
        return _adapt(self, meta_params, support, key, monitor, start, carry)

    def segments(self, adapted: Params, start: int = 0) -> tuple[Segment, ...]:
        """The segments of a call, whose steps move the same tensors.

        Args:
          adapted: the adapted parameters (arrays or shapes), with None in place of the frozen ones.
          start: see `__call__`.

        Raises:
          ValueError: the schedule is not one of these tensors.
        """
        if self.schedule is None:
            return (Segment(start, self.num_steps, frozenset(with_paths(adapted))),)
        self.schedule.check(adapted)
        return self.schedule.segments(self.num_steps, start)


def _adapt(
    loop: InnerLoop,
    meta_params: MetaParams,
    support: PyTree,
    key: Array,
    monitor: Monitor,
    start: int,
    carry: PyTree,
) -> Adaptation:
    estimator = loop.estimator
    check_adapted(meta_params.init, loop.adapts)
    origin, frozen = split_params(meta_params.init, loop.adapts)
    optimizer = loop.optimizer(meta_params.optimizer)
    first_carry = (origin, keeping_dtypes(optimizer).init(origin))
    carry = first_carry if carry is None else check_carry(carry, first_carry)
    loss_is_read = estimator.with_loss is not None and reads_loss(optimizer, carry[1], origin)

    def seen(changing: Changing, frozen: Params) -> Params:
        return loop.at_step(merge_params(changing.params, frozen), changing.k)

    def loss(changing: Changing, constant: tuple[Params, PyTree]) -> tuple[Array, PyTree]:
        support = loop.support_at(constant[1], changing.k)
        return loss_and_aux(
            loop.loss(seen(changing, constant[0]), support, cast(Array, changing.key))
        )

    def watch(changing: Changing, frozen: Params) -> PyTree:
        return monitor(seen(changing, frozen), changing.k)

    of_loss, of_monitor = Part(loss, (frozen, support)), Part(watch, frozen)
    task = whole = Task(loop, meta_params, key, origin, of_loss, of_monitor)
    moved, collected = origin, list[PyTree]()
    for segment in loop.segments(origin, start):
        task = task.narrow(segment, like(carry[0], moved))
        moved = split_params(carry[0], segment.moves)[0]
        if not collected:
            first = task.watch(moved, jnp.asarray(start, jnp.int32))
        carry, outputs = task.run(segment, carry, loss_is_read=loss_is_read)
        collected.append(outputs)
    losses, aux, gates_on, watched = jax.tree.map(lambda *of: jnp.concatenate(of), *collected)
    chex.assert_shape((losses, gates_on), (loop.num_steps,))
    monitored = jax.tree.map(
        lambda a, b: jnp.concatenate([jnp.asarray(a)[None], b]), first, watched
    )
    if estimator.only_init and loop.num_steps:
        monitored = _without_derivative(monitored)
    last_step, adapted = jnp.asarray(start + loop.num_steps, jnp.int32), carry[0]
    if estimator.finish is not through_the_steps:
        whole = whole.narrow(Segment(start, 0, frozenset(with_paths(origin))), carry[0])
        gradient = estimator.inner_gradient_of(whole.inner_loss)
        inputs = whole.inputs_at(last_step, frozen)
        adapted, frozen = estimator.finish(gradient, origin, carry[0], inputs, loop.proximal)
    done = seen(Changing(adapted, last_step), frozen)
    return Adaptation(done, losses, gates_on, monitored, aux, carry)
