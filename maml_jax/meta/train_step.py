"""One meta-step: draws tasks, adapts to each, and updates the meta-parameters."""

import dataclasses
from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from maml_jax import keys
from maml_jax.checks import check_count, check_meta_params, describe
from maml_jax.meta.batching import map_tasks, sum_over_tasks
from maml_jax.meta.objective import Objective, as_metrics
from maml_jax.meta.outer import (
    MetaObjective,
    OuterResult,
    OuterStep,
    check_fields,
    check_norm,
    check_outer,
)
from maml_jax.meta.sampling import check_sampler
from maml_jax.params import merge_params, split_floats
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

FINITE_SHARE = "finite_share/"  # first part of the names of metrics: share of tasks that count
COUNTS = ("nonfinite_tasks", "skipped_updates")  # metrics that are summed over meta-steps


class PrepareFn(Protocol):
    """Turns an episode that the host gathered into (support, query), on the device."""

    def __call__(self, episode: PyTree, /) -> PyTree: ...


def strong_array(leaf: ArrayLike) -> Array:
    """A new array without a weak type, with which the next call would compile again."""
    return jnp.array(leaf, jnp.result_type(leaf))


def init_state(
    meta_params: MetaParams, outer: OuterStep, key: Array, extras: PyTree = ()
) -> TrainState:
    """The state before the first meta-step, with arrays of its own, which a train loop donates.

    Raises:
      TypeError: an argument is of another type.
      ValueError: the key cannot be used; see `maml_jax.keys.check_key`.
    """
    check_meta_params(meta_params)
    check_outer(outer)
    keys.check_key(key)
    zero = jnp.zeros((), jnp.int32)
    step_sizes = jax.tree.map(
        lambda size: size * 1.0, meta_params.step_sizes
    )  # 1 would be an integer
    meta_params = meta_params._replace(step_sizes=step_sizes)
    outer_state = outer.init(split_floats(meta_params)[0])
    state = TrainState(zero, meta_params, outer_state, key, zero, extras)
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


def _clip(grads: MetaParams, norm: float | Array | None) -> MetaParams:
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
    recorded: bool = False  # whether the episodes hold what the losses have made


def _task_keys(batch: _Batch) -> Array:
    return keys.task_keys(batch.state.key, batch.state.step, batch.task_indices)


class _TaskResult(NamedTuple):
    """The result of one task, or the mean over tasks."""

    loss: Array  # []
    extras: PyTree
    grads: PyTree  # like MetaParams; () if only the value is wanted
    metrics: Metrics  # they do not decide whether a task is left out


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
      record: first lets the losses make their data under the current meta-parameters, and evaluates
        the objective on these alone (`Objective.record`), however often `outer` does so. For losses
        that make their own data, such as rollouts; these are made for all tasks at once.
      learned: fields of MetaParams that `outer` learns. The gradients of the others are 0: they do
        not count in a norm, and they cannot cause a task to be left out as not finite.

    A task is left out if its loss, its gradient or its extras are not finite. A metric is averaged
    over the other tasks in which it is finite, and "finite_share/NAME" is their share.

    Raises:
      TypeError: `outer` is an optax optimizer.
      ValueError: `tasks_per_chunk`, `task_clip_norm` or `learned` is not allowed.
    """

    sample_episode: EpisodeSampler | None
    objective: ObjectiveFn
    outer: OuterStep
    _: dataclasses.KW_ONLY
    prepare: PrepareFn = same_episode
    tasks_per_chunk: int | None = None
    task_clip_norm: float | Array | None = None
    record: bool = False
    learned: Collection[str] = MetaParams._fields

    def __post_init__(self) -> None:
        """Checks the values."""
        check_outer(self.outer)
        if self.tasks_per_chunk is not None:
            check_count("tasks_per_chunk", self.tasks_per_chunk)
        check_norm("task_clip_norm", self.task_clip_norm)
        check_fields("learned", self.learned)

    def __call__(
        self,
        state: TrainState,
        task_indices: Array,
        all_reduce: AllReduceFn = sum_here,
        episodes: PyTree = None,
    ) -> tuple[TrainState, Metrics]:
        """Runs one meta-step."""
        if episodes is None and self.sample_episode is not None:
            check_sampler(self.sample_episode, state.key)
        self._check_learned(state.meta_params)
        batch = _Batch(state, task_indices, episodes, all_reduce)
        objective = self._batch_objective(self._recorded(batch) if self.record else batch)
        outer_key = keys.outer_step_key(state.key, state.step)
        floats, others = split_floats(
            state.meta_params
        )  # counters, masks and keys stay as they are
        result = self.outer.step(objective, floats, state.outer_state, outer_key)
        metrics, extras = result.aux
        old = (floats, state.outer_state, state.extras)
        finite = _finite_or_unchanged((result.meta_params, extras), (floats, state.extras))
        # The update or the new parameters can overflow even if the gradient is finite.
        meta_params, outer_state, extras = optax.tree.where(
            finite, (result.meta_params, result.outer_state, extras), old
        )
        skipped = 1 - (finite & result.applied).astype(jnp.int32)
        metrics = {**metrics, "skipped_updates": skipped}
        return TrainState(
            step=state.step + 1,
            meta_params=merge_params(meta_params, others),
            outer_state=outer_state,
            key=state.key,
            skipped=state.skipped + skipped,
            extras=extras,
        ), metrics

    def _check_learned(self, meta_params: MetaParams) -> None:
        """Checks that the fields that are known to be learned have a gradient."""
        every, by_outer = MetaParams._fields, self.outer.learned
        if by_outer is None:  # an outer step that does not tell
            by_outer = () if len(self.learned) == len(every) else every
        learned = [field for field in self.learned if field in by_outer]
        if len(learned) == len(every):  # not named, but all that there is
            learned = [field for field in every if jax.tree.leaves(getattr(meta_params, field))]
        if isinstance(self.objective, Objective):
            self.objective.check_learned(meta_params, learned)

    def _recorded(self, batch: _Batch) -> _Batch:
        """The tasks with the data that the losses make under the current meta-parameters."""
        if not isinstance(self.objective, Objective):
            raise TypeError(f"record=True with {describe(self.objective)}; give an Objective")
        record, state = self.objective.record, batch.state

        def of_task(key: Array, raw: PyTree) -> PyTree:
            episode_key, objective_key = keys.split_task_key(key)
            episode = self._episode(episode_key, raw)
            return record(state.meta_params, episode, objective_key, state.step)

        made = map_tasks(of_task, _task_keys(batch), batch.episodes)
        return batch._replace(episodes=made, recorded=True)

    def _episode(self, key: Array, raw: PyTree) -> PyTree:
        """The episode `raw` of the host, or one that it draws."""
        if raw is not None:
            return self.prepare(raw)
        if self.sample_episode is None:
            raise ValueError("neither sample_episode nor episodes are given")
        return self.sample_episode(key)

    def _of_task(
        self, meta_params: MetaParams, batch: _Batch, key: Array, raw: PyTree
    ) -> tuple[Array, tuple[Metrics, PyTree]]:
        """The objective of one task."""
        state = batch.state
        others = split_floats(state.meta_params)[1]
        meta_params = merge_params(_hold_constant(meta_params, self.learned), others)
        episode_key, objective_key = keys.split_task_key(key)
        episode = raw if batch.recorded else self._episode(episode_key, raw)
        loss, (metrics, extras) = self.objective(
            meta_params, episode, objective_key, state.step, state.extras
        )
        return loss, (as_metrics(metrics, ("loss", *COUNTS)), extras)

    def _batch_objective(self, batch: _Batch, metric: str | None = None) -> MetaObjective:
        """The mean of the loss, or of a metric in its place, over the tasks that are finite."""
        task_keys = _task_keys(batch)

        def loss_of_task(
            meta_params: MetaParams, key: Array, raw: PyTree
        ) -> tuple[Array, tuple[Metrics, PyTree]]:
            loss, (metrics, extras) = self._of_task(meta_params, batch, key, raw)
            return loss if metric is None else metrics[metric], (metrics, extras)

        def mean_over_finite(of_task: Callable[[Array, PyTree], _TaskResult]) -> _TaskResult:
            def guarded(key: Array, raw: PyTree) -> tuple[_TaskResult, PyTree, Array]:
                result = of_task(key, raw)
                finite = all_finite(result._replace(metrics={}))
                counted = {name: finite & jnp.isfinite(of) for name, of in result.metrics.items()}
                masks = jax.tree.map(lambda _: finite, result)._replace(metrics=counted)
                kept = jax.tree.map(
                    lambda mask, leaf: jnp.where(mask, leaf, jnp.zeros_like(leaf)), masks, result
                )
                return kept, optax.tree.cast((finite, counted), jnp.float32), jnp.float32(1)

            total, (number_finite, counts), number = batch.all_reduce(
                sum_over_tasks(guarded, task_keys, batch.episodes, chunk=self.tasks_per_chunk)
            )
            # If no task is finite, 0/0 = NaN makes the outer step skip its update.
            mean = jax.tree.map(lambda leaf: leaf / number_finite.astype(leaf.dtype), total)
            metrics: Metrics = {"loss": mean.loss, "nonfinite_tasks": number - number_finite}
            for name, count in counts.items():
                metrics[name] = total.metrics[name] / count.astype(total.metrics[name].dtype)
                metrics[FINITE_SHARE + name] = jnp.mean(count) / number_finite
            extras = optax.tree.cast_like(mean.extras, batch.state.extras)
            return _TaskResult(mean.loss, extras, mean.grads, metrics)

        def value(meta_params: MetaParams) -> tuple[Array, PyTree]:
            def of_task(key: Array, raw: PyTree) -> _TaskResult:
                loss, (metrics, extras) = loss_of_task(meta_params, key, raw)
                return _TaskResult(loss, extras, (), metrics)

            mean = mean_over_finite(of_task)
            return mean.loss, (mean.metrics, mean.extras)

        def value_and_grad(meta_params: MetaParams) -> tuple[tuple[Array, PyTree], MetaParams]:
            gradient = jax.value_and_grad(loss_of_task, has_aux=True)

            def of_task(key: Array, raw: PyTree) -> _TaskResult:
                (loss, (metrics, extras)), grads = gradient(meta_params, key, raw)
                return _TaskResult(loss, extras, _clip(grads, self.task_clip_norm), metrics)

            mean = mean_over_finite(of_task)
            grads = optax.tree.cast_like(mean.grads, meta_params)
            return (mean.loss, (mean.metrics, mean.extras)), grads

        return MetaObjective(value, value_and_grad, partial(self._batch_objective, batch))


def with_constant_lengths(train_step: TrainStep) -> TrainStep:
    """A meta-step that takes hard gates, and learns everything but the lengths."""
    outer, objective = train_step.outer, train_step.objective
    assert isinstance(objective, Objective)

    def step(of: MetaObjective, meta_params: MetaParams, state: PyTree, key: Array) -> OuterResult:
        result = outer.step(of, meta_params, state, key)
        constant = result.meta_params._replace(lengths=meta_params.lengths)
        return result._replace(meta_params=constant)

    return dataclasses.replace(
        train_step,
        objective=dataclasses.replace(objective, lengths=None),
        outer=outer._replace(step=step),
        learned=tuple(field for field in train_step.learned if field != "lengths"),
    )
