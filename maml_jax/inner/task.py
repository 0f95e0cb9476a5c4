"""The steps of one task's inner loop, segment after segment."""

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from maml_jax import keys
from maml_jax.inner.checkpointed_scan import checkpointed_scan
from maml_jax.inner.meta_gradients import InnerInputs
from maml_jax.inner.restricted import Changing, Part, like, restrict
from maml_jax.inner.step import (
    add_proximal,
    keep_cotangents_finite,
    keeping_dtypes,
    proximal_term,
    share_on,
    take_step,
)
from maml_jax.lengths.gates import always_on
from maml_jax.lengths.schedule import Segment
from maml_jax.params import merge_params, split_params
from maml_jax.types import Array, MetaParams, Params, PyTree

if TYPE_CHECKING:
    from maml_jax.inner.adapt import InnerLoop


class Task(NamedTuple):
    """What the segments of one task share."""

    loop: "InnerLoop"
    meta_params: MetaParams
    key: Array
    origin: Params  # θ of the adapted parameters
    loss: Part
    monitor: Part

    def narrow(self, segment: Segment, adapted: Params) -> "Task":
        """Evaluates what is known once only the tensors of the segment move."""
        k = jnp.zeros((), jnp.int32)
        return self._replace(
            loss=self.loss.narrow(segment, Changing(adapted, k, self.key)),
            monitor=self.monitor.narrow(segment, Changing(adapted, k)),
        )

    def inner_loss(self, params: Params, inputs: InnerInputs) -> tuple[Array, PyTree]:
        """The support loss of the tensors that move."""
        result: tuple[Array, PyTree] = self.loss.fn(
            Changing(params, inputs.k, inputs.key), inputs.values
        )
        return result

    def inputs_at(self, k: Array, frozen: Params = ()) -> InnerInputs:
        """The inputs of the support loss at a step."""
        return InnerInputs(keys.inner_step_key(self.key, k), k, self.loss.values, frozen)

    def watch(self, moving: Params, k: Array) -> PyTree:
        """What the monitor sees."""
        return self.monitor.fn(Changing(moving, k), self.monitor.values)

    def run(
        self, segment: Segment, carry: tuple[Params, PyTree], *, loss_is_read: bool
    ) -> tuple[tuple[Params, PyTree], PyTree]:
        """Takes the steps of a segment: (carry, (losses, aux, gates on, monitored))."""
        loop, meta_params = self.loop, self.meta_params
        moving, resting = split_params(carry[0], segment.moves)
        origin = like(self.origin, moving)
        optimizer = keeping_dtypes(loop.optimizer(meta_params.optimizer))
        restricted = restrict(optimizer, carry[1], moving, resting)
        inner_gradient = loop.estimator.inner_gradient_of(self.inner_loss, with_loss=loss_is_read)
        at_rest = None
        if loop.proximal and jax.tree.leaves(resting):
            at_rest = proximal_term(loop.proximal, resting, like(self.origin, resting))

        def step(carry: tuple[Params, PyTree], k: Array) -> tuple[PyTree, PyTree]:
            adapted = merge_params(carry[0], resting)
            gates = like(loop.gates(meta_params.lengths, adapted, k), moving)
            alphas = like(loop.step_sizes(meta_params.step_sizes, adapted, k), moving)
            halted = None
            if loop.gates is not always_on:
                halted = jax.tree.map(lambda gate: jnp.equal(gate, 0), gates)
            params = carry[0] if halted is None else keep_cotangents_finite(carry[0], halted)
            (loss, aux), grads = inner_gradient(params, self.inputs_at(k))
            objective, grads = add_proximal(loop.proximal, loss, grads, carry[0], origin)
            if at_rest is not None:
                objective += at_rest.astype(loss.dtype)
            value = objective if loss_is_read else jax.lax.stop_gradient(objective)
            carry = take_step(restricted.optimizer, carry, (value, grads), gates, alphas, halted)
            share = share_on(gates, carry[0], meta_params.init)
            return carry, (jax.lax.stop_gradient(loss), aux, share, self.watch(carry[0], k + 1))

        def idle_step(carry: tuple[Params, PyTree], k: Array) -> tuple[PyTree, PyTree]:
            result = jax.lax.stop_gradient(self.inner_loss(carry[0], self.inputs_at(k)))
            return carry, (*result, jnp.zeros(()), self.watch(carry[0], k + 1))

        take = loop.estimator.wrap_step(step if segment.moving else idle_step)
        steps = segment.start + jnp.arange(segment.num_steps, dtype=jnp.int32)
        first = (moving, restricted.state)
        (moving, state), outputs = checkpointed_scan(take, first, steps, loop.checkpoint_segments)
        return (merge_params(moving, resting), restricted.restore(state)), outputs
