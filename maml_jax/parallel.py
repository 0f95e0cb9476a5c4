"""Training and evaluation on many devices; no other part of the library depends on devices."""

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from maml_jax import keys
from maml_jax.checks import check_count, check_meta_params, describe, support_and_query
from maml_jax.errors import UsageError, first_line
from maml_jax.meta.batching import largest_divisor, map_tasks
from maml_jax.meta.evaluate import (
    EpisodeCounts,
    Estimate,
    PerEpisode,
    make_task_evaluation,
    summarise,
)
from maml_jax.meta.train_step import COUNTS, strong_array
from maml_jax.types import (
    AdaptFn,
    Array,
    EpisodeSampler,
    LossFn,
    MetaParams,
    Metrics,
    PyTree,
    TrainLoop,
    TrainState,
    TrainStepFn,
)

AXIS = "devices"
_MOST_PARTS = 20  # of an evaluation that shows its progress


class EvaluationFn(Protocol):
    """Evaluates on the episodes of a key: ({"loss": Estimate [K+1], ...}, episode counts)."""

    def __call__(
        self, meta_params: MetaParams, key: Array, /
    ) -> tuple[dict[str, Estimate], EpisodeCounts]: ...


class EpisodeEvaluationFn(Protocol):
    """Evaluates on the episodes of a key: {"loss" and metrics: [episodes, K+1]}."""

    def __call__(self, meta_params: MetaParams, key: Array, /) -> PerEpisode: ...


def available_devices() -> list[jax.Device]:
    """All devices.

    Raises:
      UsageError: there is none of the kind that JAX_PLATFORMS asks for.
    """
    try:
        return list(jax.devices())
    except (AssertionError, RuntimeError) as error:  # JAX only asserts that it has found a device
        raise UsageError(
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')} names no device that JAX can use "
            f"here ({first_line(error)}); use cpu, or install JAX for this device"
        ) from error


def _device_list(devices: Sequence[jax.Device] | None) -> list[jax.Device]:
    chosen = available_devices() if devices is None else list(devices)
    if not chosen:
        raise UsageError("devices is empty; give at least one, or None for all")
    return chosen


def _check_alive(name: str, tree: PyTree) -> None:
    """Checks that no train loop has reused the memory of a tree."""
    for leaf in jax.tree.leaves(tree):
        traced = isinstance(leaf, jax.core.Tracer)
        if isinstance(leaf, jax.Array) and not traced and leaf.is_deleted():
            raise UsageError(
                f"{name} was given to a train loop, which reuses its memory; use the state that "
                "the loop returned, or give the loop a copy: jax.tree.map(jnp.copy, state)"
            )


def use_cpu_devices(number: int) -> None:
    """Splits the CPU into devices, unless a computation has run or XLA_FLAGS set their number.

    Raises:
      UsageError: JAX_PLATFORMS asks for a kind of device that is not there.
    """
    if "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):
            cast(Any, jax.config).update("jax_num_cpu_devices", number)
    available_devices()


def cores_that_divide(tasks: int) -> int:
    """The largest number of CPU cores of this process that divides the number of tasks."""
    return largest_divisor(tasks, len(os.sched_getaffinity(0)))


def _check_call(state: TrainState, episodes: PyTree, axes: tuple[int, int]) -> None:
    if not isinstance(state, TrainState):
        raise TypeError(f"state is {describe(state)}; use state, metrics = train(state, n)")
    _check_alive("state", state)
    for leaf in jax.tree.leaves(episodes):
        if np.shape(leaf)[:2] != axes:
            raise UsageError(
                f"episodes have an array of shape {np.shape(leaf)}; its first axes must be "
                f"[num_steps, meta_batch_size] = {list(axes)}"
            )


def make_train_loop(
    train_step: TrainStepFn,
    *,
    meta_batch_size: int,
    devices: Sequence[jax.Device] | None = None,
) -> TrainLoop:
    """Makes a loop that runs n meta-steps in one dispatch and splits meta-batches over devices.

    Args:
      train_step: see `maml_jax.meta.train_step.TrainStep`.
      meta_batch_size: B, the number of tasks in a meta-batch over all devices.
      devices: the D devices; None uses all available ones.

    Returns:
      loop(state, n, episodes=None) -> (state, metrics). Episodes [n, B, ...] come from the host, or
      the sampler draws them. Metrics are means over the n steps without those that are NaN, except
      for counts, which are sums. Results do not depend on D or on how steps are grouped into
      dispatches. The state that is passed in is donated: it cannot be used again.

    Raises:
      UsageError: B is not a multiple of D, or not positive.
    """
    devices = _device_list(devices)
    meta_batch_size = check_count("meta_batch_size", meta_batch_size)
    if meta_batch_size % len(devices):
        raise UsageError(
            f"meta_batch_size={meta_batch_size} does not divide over {len(devices)} devices; "
            f"use a multiple of {len(devices)}"
        )
    task_indices = jnp.arange(meta_batch_size).reshape(len(devices), -1)
    all_reduce = partial(jax.lax.psum, axis_name=AXIS)

    def run(
        state: TrainState, task_indices: Array, episodes: PyTree, num_steps: int
    ) -> tuple[TrainState, Metrics]:
        def body(state: TrainState, episodes: PyTree) -> tuple[TrainState, Metrics]:
            return train_step(state, task_indices, all_reduce, episodes)

        state, metrics = jax.lax.scan(body, state, episodes, length=num_steps)
        reduced = {
            name: jnp.sum(value) if name in COUNTS else jnp.nanmean(value, axis=0)
            for name, value in metrics.items()
        }
        return state, reduced

    dispatch = jax.pmap(
        run,
        AXIS,
        in_axes=(None, 0, 0, None),
        out_axes=None,
        static_broadcasted_argnums=3,
        devices=devices,
        donate_argnums=0,
    )
    # If a fresh state differed from one that a dispatch returned, the loop would compile twice.
    replicated = NamedSharding(Mesh(np.array(devices), (AXIS,)), cast(Any, PartitionSpec)())

    def split(leaf: np.ndarray) -> np.ndarray:  # [n, B, ...] -> [D, n, B / D, ...]
        return np.moveaxis(leaf.reshape(len(leaf), *task_indices.shape, *leaf.shape[2:]), 1, 0)

    def loop(
        state: TrainState, num_steps: int, episodes: PyTree = None
    ) -> tuple[TrainState, Metrics]:
        num_steps = check_count("num_steps", num_steps)
        _check_call(state, episodes, (num_steps, meta_batch_size))
        state = jax.device_put(state, replicated)
        result: tuple[TrainState, Metrics] = dispatch(
            state, task_indices, jax.tree.map(split, episodes), num_steps
        )
        return result

    return loop


def _parts(indices: np.ndarray, chunk: int) -> list[np.ndarray]:
    """Equal parts [D, n] of indices [D, share], of two chunks or more.

    Each is then a loop over chunks, as the whole is, and gives the same numbers.
    """
    chunks, rest = divmod(indices.shape[1], chunk)
    number = 1 if rest else largest_divisor(chunks, min(chunks // 2, _MOST_PARTS))
    return np.split(indices, number, axis=1)


def make_episode_evaluation(
    adapt: AdaptFn,
    query_loss: LossFn,
    sample_episode: EpisodeSampler | None = None,
    *,
    episodes: PyTree = None,
    num_episodes: int = 600,
    chunk: int = 100,
    step: int = keys.EVALUATION,
    devices: Sequence[jax.Device] | None = None,
    progress: Callable[[Sequence[np.ndarray]], Iterable[np.ndarray]] | None = None,
) -> EpisodeEvaluationFn:
    """Makes an evaluation that measures the query loss (and its aux) after every inner step.

    Args:
      adapt: an `InnerLoop`; its number of steps may differ from that of training.
      query_loss: (params, query, key) -> (loss [], aux); entries of a dict aux are measured too.
      sample_episode: key -> (support, query). Episode i is drawn from (key, i), so that the same
        key gives the same episodes for any devices and chunks. They are no training episodes,
        even if the training has the same key. None if they are given.
      episodes: (support, query) with a leading axis of episodes in every array: fixed tasks of your
        own. Of unequal tasks see `maml_jax.tasks.padding`.
      num_episodes: number of episodes that are drawn.
      chunk: number of episodes that a device adapts to at once, which bounds memory.
      step: the meta-step at which episodes are drawn. By default, training never reaches it. Use
        another one only with a key of its own.
      devices: the devices; None uses all available ones.
      progress: iterates over the parts of the episodes and shows how many are done, as `tqdm.tqdm`
        does; None evaluates all of them in one call. The numbers are the same.

    Returns:
      evaluation(meta_params, key) -> {"loss" and metrics: [episodes, K+1]}. It compiles once.

    Raises:
      ValueError: num_episodes or chunk is below 1, or the episodes are not given in one of both
        ways.
    """
    if episodes is not None:
        num_episodes = _number_of(episodes)
    if (episodes is None) == (sample_episode is None):
        raise ValueError("give either sample_episode or episodes")
    num_episodes = check_count("num_episodes", num_episodes)
    chunk = check_count("chunk", chunk)
    devices = _device_list(devices)
    evaluate_task = make_task_evaluation(adapt, query_loss, sample_episode)
    share = -(-num_episodes // len(devices))
    # Surplus episodes make the shares of all devices equal; they are cut off below.
    indices = np.arange(share * len(devices), dtype=np.int32).reshape(len(devices), share)

    def run(indices: Array, meta_params: MetaParams, key: Array, episodes: PyTree) -> Metrics:
        task_keys = keys.task_keys(key, jnp.int32(step), indices)
        given = jax.tree.map(lambda leaf: jnp.asarray(leaf)[indices], episodes)
        of_task = partial(evaluate_task, meta_params)
        return map_tasks(of_task, task_keys, given, chunk=min(chunk, share))

    mapped = jax.pmap(run, AXIS, in_axes=(0, None, None, None), devices=devices)

    def evaluation(meta_params: MetaParams, key: Array) -> PerEpisode:
        check_meta_params(meta_params)
        keys.check_key(key)
        _check_alive("meta_params", meta_params)
        meta_params = jax.tree.map(strong_array, meta_params)
        parts = [indices] if progress is None else progress(_parts(indices, chunk))
        per_part = [jax.device_get(mapped(part, meta_params, key, episodes)) for part in parts]
        whole: Any = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *per_part)
        return {name: v.reshape(-1, *v.shape[2:])[:num_episodes] for name, v in whole.items()}

    return evaluation


def _number_of(episodes: PyTree) -> int:
    """The leading axis of all arrays."""
    support_and_query(episodes)
    numbers = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(episodes)}
    if len(numbers) != 1 or () in numbers:
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(episodes)]
        raise ValueError(
            f"the arrays of episodes have the shapes {shapes}; give (support, query) with a "
            "leading axis of episodes in every array"
        )
    return int(numbers.pop()[0])


def make_evaluation(
    adapt: AdaptFn,
    query_loss: LossFn,
    sample_episode: EpisodeSampler | None = None,
    **options: Any,
) -> EvaluationFn:
    """Makes an evaluation that gives statistics over episodes.

    Args:
      adapt: an `InnerLoop`; its number of steps may differ from that of training.
      query_loss: (params, query, key) -> (loss [], aux); entries of a dict aux are measured too.
      sample_episode: key -> (support, query); None if `episodes` are given.
      **options: those of `make_episode_evaluation`.

    Returns:
      evaluation(meta_params, key) -> ({"loss": Estimate [K+1], ...}, counts of all, diverged and
      not finite episodes), see `maml_jax.meta.evaluate.summarise`. It compiles once.

    Raises:
      ValueError: see `make_episode_evaluation`.
    """
    per_episode = make_episode_evaluation(adapt, query_loss, sample_episode, **options)

    def evaluation(
        meta_params: MetaParams, key: Array
    ) -> tuple[dict[str, Estimate], EpisodeCounts]:
        return summarise(per_episode(meta_params, key))

    return evaluation


def evaluate(
    adapt: AdaptFn,
    query_loss: LossFn,
    sample_episode: EpisodeSampler | None,
    meta_params: MetaParams,
    key: Array,
    *,
    episodes: PyTree = None,
    num_episodes: int = 600,
    chunk: int = 100,
    devices: Sequence[jax.Device] | None = None,
) -> tuple[dict[str, Estimate], EpisodeCounts]:
    """Makes an evaluation and calls it once; see `make_evaluation`."""
    evaluation = make_evaluation(
        adapt, query_loss, sample_episode,
        episodes=episodes, num_episodes=num_episodes, chunk=chunk, devices=devices,
    )  # fmt: skip
    return evaluation(meta_params, key)
