"""One meta-step: draws tasks, adapts to each, and updates the meta-parameters."""

import dataclasses
from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from maml_jax import keys
from maml_jax.meta.batching import sum_over_tasks
from maml_jax.meta.outer import MetaObjective, OuterStep
from maml_jax.types import (
    AllReduceFn,
    Array,
    EpisodeSampler,
    MetaParams,
    Metrics,
    ObjectiveFn,
    PyTree,
    TrainState,
)

T = TypeVar("T")


class PrepareFn(Protocol):
    """Turns an episode that the host gathered into (support, query), on the device."""

    def __call__(self, episode: PyTree, /) -> PyTree: ...


def strong_array(leaf: ArrayLike) -> Array:
    """A new array without a weak type, with which the next call would compile again."""
    return jnp.array(leaf, jnp.result_type(leaf))


def init_state(
    meta_params: MetaParams, outer: OuterStep, key: Array, extras: PyTree = ()
) -> TrainState:
    """The state before the first meta-step, with arrays of its own, which a train loop donates."""
    zero = jnp.zeros((), jnp.int32)
    step_sizes = jax.tree.map(
        lambda size: size * 1.0, meta_params.step_sizes
    )  # 1 would be an integer
    meta_params = meta_params._replace(step_sizes=step_sizes)
    state = TrainState(zero, meta_params, outer.init(meta_params), key, zero, extras)
    own: TrainState = jax.tree.map(strong_array, state)
    return own


def all_finite(tree: PyTree) -> Array:
    """Whether every element of every leaf is finite, []."""
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _finite_or_unchanged(new: PyTree, old: PyTree) -> Array:
    """Whether every element is finite or unchanged, []: constants may be infinite."""
    ok = jax.tree.map(lambda a, b: jnp.all(jnp.isfinite(a) | (a == b)), new, old)
    return jnp.all(jnp.array(jax.tree.leaves(ok)))


def _hold_constant(meta_params: MetaParams, learned: Collection[str]) -> MetaParams:
    """Stops the gradients of the fields that are not learned."""
    constants = {f: getattr(meta_params, f) for f in MetaParams._fields if f not in learned}
    return meta_params._replace(**jax.lax.stop_gradient(constants))


def _clip(grads: MetaParams, norm: float | None) -> MetaParams:
    if norm is None:
        return grads
    clip = optax.clip_by_global_norm(norm)
    clipped: MetaParams = clip.update(grads, clip.init(grads))[0]
    return clipped


class _Batch(NamedTuple):
    """The tasks of one meta-step on one device."""

    state: TrainState
    task_indices: Array  # [B], global
    episodes: PyTree  # [B, ...] if the host gathers them, else None
    all_reduce: AllReduceFn


def same_episode(episode: PyTree) -> PyTree:
    """Leaves an episode as it is."""
    return episode


def sum_here(tree: PyTree) -> PyTree:
    """The sum over a single device."""
    return tree


@dataclasses.dataclass(frozen=True, eq=False)
class TrainStep:
    """A meta-step over given tasks, independent of devices.

    It is called as train_step(state, task_indices, all_reduce, episodes) -> (state, metrics), where
    task_indices are the global indices [B] of the tasks of this device, all_reduce is the sum over
    devices, and episodes [B, ...] come from the host (None: sample_episode draws them).

    Attributes:
      sample_episode: key -> (support, query); None if the host gathers all episodes.
      objective: the meta-objective of one task, see `maml_jax.meta.objective.Objective`.
      outer: the outer step, see `maml_jax.meta.outer.optax_outer`.
      prepare: applied on the device to each episode that the host gathered.
      tasks_per_chunk: largest number of tasks that a device runs at once, which bounds memory:
        their gradients are accumulated. None vmaps all tasks.
      task_clip_norm: scales the meta-gradient of every task down to this L2 norm before the mean,
        so that a diverged task counts no more than the others.
      learned: fields of MetaParams that `outer` learns. The gradients of the others are 0: they do
        not count in a norm, and they cannot cause a task to be left out as not finite.
    """

    sample_episode: EpisodeSampler | None
    objective: ObjectiveFn
    outer: OuterStep
    _: dataclasses.KW_ONLY
    prepare: PrepareFn = same_episode
    tasks_per_chunk: int | None = None
    task_clip_norm: float | None = None
    learned: Collection[str] = MetaParams._fields

    def __call__(
        self,
        state: TrainState,
        task_indices: Array,
        all_reduce: AllReduceFn = sum_here,
        episodes: PyTree = None,
    ) -> tuple[TrainState, Metrics]:
        """Runs one meta-step."""
        batch = self._batch_objective(_Batch(state, task_indices, episodes, all_reduce))
        outer_key = keys.outer_step_key(state.key, state.step)
        result = self.outer.step(batch, state.meta_params, state.outer_state, outer_key)
        metrics, extras = result.aux
        old = (state.meta_params, state.outer_state, state.extras)
        finite = _finite_or_unchanged(
            (result.meta_params, extras), (state.meta_params, state.extras)
        )
        # The update or the new parameters can overflow even if the gradient is finite.
        meta_params, outer_state, extras = optax.tree.where(
            finite, (result.meta_params, result.outer_state, extras), old
        )
        skipped = 1 - (finite & result.applied).astype(jnp.int32)
        metrics = {**metrics, "skipped_updates": skipped}
        return TrainState(
            step=state.step + 1,
            meta_params=meta_params,
            outer_state=outer_state,
            key=state.key,
            skipped=state.skipped + skipped,
            extras=extras,
        ), metrics

    def _of_task(
        self, meta_params: MetaParams, state: TrainState, key: Array, raw: PyTree
    ) -> tuple[Array, PyTree]:
        """The objective of one task, on the episode `raw` or on one that it draws."""
        meta_params = _hold_constant(meta_params, self.learned)
        episode_key, objective_key = keys.split_task_key(key)
        if raw is not None:
            episode = self.prepare(raw)
        elif self.sample_episode is not None:
            episode = self.sample_episode(episode_key)
        else:
            raise ValueError("neither sample_episode nor episodes are given")
        return self.objective(meta_params, episode, objective_key, state.step, state.extras)

    def _batch_objective(self, batch: _Batch) -> MetaObjective:
        """The mean over the tasks whose value and gradient are finite."""
        task_keys = keys.task_keys(batch.state.key, batch.state.step, batch.task_indices)

        def mean_over_finite(per_task: Callable[[Array, PyTree], T]) -> tuple[T, Array]:
            def guarded(key: Array, raw: PyTree) -> tuple[T, Array, Array]:
                result = per_task(key, raw)
                finite = all_finite(result)
                zeros = jax.tree.map(jnp.zeros_like, result)
                result = optax.tree.where(finite, result, zeros)
                return result, finite.astype(jnp.float32), jnp.float32(1)

            total, number_finite, number = batch.all_reduce(
                sum_over_tasks(guarded, task_keys, batch.episodes, chunk=self.tasks_per_chunk)
            )
            # If no task is finite, 0/0 = NaN makes the outer step skip its update.
            mean: T = jax.tree.map(lambda leaf: leaf / number_finite.astype(leaf.dtype), total)
            return mean, number - number_finite

        def with_metrics(loss: Array, aux: PyTree, dropped: Array) -> tuple[Array, PyTree]:
            metrics, extras = aux
            return loss, ({**metrics, "loss": loss, "nonfinite_tasks": dropped}, extras)

        def value(meta_params: MetaParams) -> tuple[Array, PyTree]:
            of_task = partial(self._of_task, meta_params, batch.state)
            (loss, aux), dropped = mean_over_finite(of_task)
            return with_metrics(loss, aux, dropped)

        def value_and_grad(meta_params: MetaParams) -> tuple[tuple[Array, PyTree], MetaParams]:
            gradient = jax.value_and_grad(self._of_task, has_aux=True)

            def clipped(key: Array, raw: PyTree) -> tuple[tuple[Array, PyTree], MetaParams]:
                result, grads = gradient(meta_params, batch.state, key, raw)
                return result, _clip(grads, self.task_clip_norm)

            ((loss, aux), grads), dropped = mean_over_finite(clipped)
            return with_metrics(loss, aux, dropped), grads

        return MetaObjective(value, value_and_grad)
