"""One meta-step: draw tasks, adapt each, average their meta-gradients, move the meta-parameters."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from maml_jax.meta.objective import TaskObjective
from maml_jax.meta.outer import MetaObjective, OuterStep
from maml_jax.meta.tasks import sum_over_tasks, task_keys
from maml_jax.types import Array, EpisodeSampler, MetaParams, Metrics, PyTree, TrainState

TrainStep = Callable[..., tuple[TrainState, Metrics]]


def strong_array(leaf: Any) -> Array:
    """A new array without a weak type, which would make the next call compile again."""
    return jnp.array(leaf, jnp.result_type(leaf))


def init_state(
    meta_params: MetaParams, outer: OuterStep, key: Array, extras: PyTree = ()
) -> TrainState:
    """The state before the first meta-step, of arrays of its own: a train loop donates them."""
    zero = jnp.zeros((), jnp.int32)
    rates = jax.tree.map(lambda rate: rate * 1.0, meta_params.learning_rates)  # 1 is no float
    meta_params = meta_params._replace(learning_rates=rates)
    state = TrainState(zero, meta_params, outer.init(meta_params), key, zero, extras)
    return jax.tree.map(strong_array, state)


def all_finite(tree: PyTree) -> Array:
    """[], True where every element of every leaf is finite."""
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _finite_or_unmoved(new: PyTree, old: PyTree) -> Array:
    """[], True where all is finite but for what was held: an infinite gate bound may stay so."""
    ok = jax.tree.map(lambda a, b: jnp.all(jnp.isfinite(a) | (a == b)), new, old)
    return jnp.all(jnp.array(jax.tree.leaves(ok)))


def _hold_constant(meta_params: MetaParams, learned: Collection[str]) -> MetaParams:
    """No gradient for the fields that are not learned."""
    constants = {f: getattr(meta_params, f) for f in MetaParams._fields if f not in learned}
    return meta_params._replace(**jax.lax.stop_gradient(constants))


def _clip(grads: MetaParams, norm: float | None) -> MetaParams:
    if norm is None:
        return grads
    clip = optax.clip_by_global_norm(norm)
    clipped, _ = clip.update(grads, clip.init(grads))
    return clipped


def _batch_objective(
    task_objective: TaskObjective,
    sample_episode: EpisodeSampler | None,
    prepare: Callable[[PyTree], Any],
    state: TrainState,
    task_indices: Array,
    episodes: PyTree,
    all_reduce: Callable[[PyTree], PyTree],
    chunk: int | None,
    task_clip_norm: float | None,
    learned: Collection[str],
) -> MetaObjective:
    """The meta-objective over this step's tasks; tasks with non-finite values or gradients drop."""
    keys = task_keys(state.key, state.step, task_indices)

    def of_task(meta_params: MetaParams, key: Array, raw: PyTree) -> tuple[Array, PyTree]:
        meta_params = _hold_constant(meta_params, learned)
        episode_key, objective_key = jax.random.split(key)
        if raw is not None:
            episode = prepare(raw)
        elif sample_episode is not None:
            episode = sample_episode(episode_key)
        else:
            raise ValueError("neither sample_episode nor episodes are given")
        return task_objective(meta_params, episode, objective_key, state.step, state.extras)

    def mean_over_finite(per_task: Callable[[Array, PyTree], PyTree]) -> PyTree:
        def guarded(key: Array, raw: PyTree) -> tuple[PyTree, Array, Array]:
            result = per_task(key, raw)
            finite = all_finite(result)
            zeros = jax.tree.map(jnp.zeros_like, result)
            result = optax.tree.where(finite, result, zeros)
            return result, finite.astype(jnp.float32), jnp.float32(1)

        total, number_finite, number = all_reduce(
            sum_over_tasks(guarded, keys, episodes, chunk=chunk)
        )
        # 0/0 = NaN where no task is finite: the outer step then skips its update.
        mean = jax.tree.map(lambda leaf: leaf / number_finite.astype(leaf.dtype), total)
        return mean, number - number_finite

    def with_metrics(loss: Array, aux: PyTree, dropped: Array) -> tuple[Array, PyTree]:
        metrics, extras = aux
        return loss, ({**metrics, "loss": loss, "nonfinite_tasks": dropped}, extras)

    def value(meta_params: MetaParams) -> tuple[Array, PyTree]:
        (loss, aux), dropped = mean_over_finite(partial(of_task, meta_params))
        return with_metrics(loss, aux, dropped)

    def value_and_grad(meta_params: MetaParams) -> tuple[tuple[Array, PyTree], MetaParams]:
        gradient = jax.value_and_grad(of_task, has_aux=True)

        def clipped(key: Array, raw: PyTree) -> tuple[tuple[Array, PyTree], MetaParams]:
            result, grads = gradient(meta_params, key, raw)
            return result, _clip(grads, task_clip_norm)

        ((loss, aux), grads), dropped = mean_over_finite(clipped)
        return with_metrics(loss, aux, dropped), grads

    return MetaObjective(value, value_and_grad)


def make_train_step(
    sample_episode: EpisodeSampler | None,
    objective: TaskObjective,
    outer: OuterStep,
    *,
    prepare: Callable[[PyTree], Any] = lambda episode: episode,
    tasks_per_chunk: int | None = None,
    task_clip_norm: float | None = None,
    learned: Collection[str] = MetaParams._fields,
) -> TrainStep:
    """A meta-step over given tasks; it knows of no device.

    Args:
      sample_episode: key -> (support, query); None where the host gathers all episodes.
      objective: of one task, see `make_objective`.
      outer: see `optax_outer`.
      prepare: what is done on the device to an episode that the host gathered.
      tasks_per_chunk: None vmaps all tasks of a device at once; a number takes at most that
        many and accumulates their gradients, which bounds memory.
      task_clip_norm: scale every task's meta-gradient down to this L2 norm before the mean: a task
        that diverges then weighs no more than another.
      learned: fields of MetaParams that `outer` learns. Gradients of the others are not taken: they
        are 0, and count neither in a norm nor where a task is dropped that is not finite.

    Returns:
      train_step(state, task_indices, all_reduce=identity, episodes=None) -> (state, metrics), with
      task_indices the global indices [B] of the tasks to run here, all_reduce the sum over devices,
      and episodes [B, ...] where the host gathers them (None: sample_episode draws them).
    """

    def train_step(
        state: TrainState,
        task_indices: Array,
        all_reduce: Any = lambda tree: tree,
        episodes: PyTree = None,
    ) -> tuple[TrainState, Metrics]:
        batch = _batch_objective(
            objective,
            sample_episode,
            prepare,
            state,
            task_indices,
            episodes,
            all_reduce,
            tasks_per_chunk,
            task_clip_norm,
            learned,
        )
        # −1 is no task's index: the outer step's randomness is its own.
        outer_key = task_keys(state.key, state.step, jnp.array([-1]))[0]
        result = outer.step(batch, state.meta_params, state.outer_state, outer_key)
        metrics, extras = result.aux
        old = (state.meta_params, state.outer_state, state.extras)
        finite = _finite_or_unmoved((result.meta_params, extras), (state.meta_params, state.extras))
        # A gradient can be finite and the update or the new parameters still overflow.
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

    return train_step
