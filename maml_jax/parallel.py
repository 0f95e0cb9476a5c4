"""The only file that knows of devices: pmap over D, tasks split over D, sums reduced over D."""

import contextlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from maml_jax.errors import UsageError
from maml_jax.meta.evaluate import Estimate, make_task_evaluation, summarise
from maml_jax.meta.objective import AdaptFn
from maml_jax.meta.tasks import largest_divisor, map_tasks, task_keys
from maml_jax.meta.train_step import TrainStep, strong_array
from maml_jax.types import (
    Array,
    EpisodeSampler,
    LossFn,
    MetaParams,
    Metrics,
    PyTree,
    TrainState,
)

AXIS = "devices"
COUNTS = ("nonfinite_tasks", "skipped_updates")  # metrics that add up over meta-steps
TrainLoop = Callable[..., tuple[TrainState, Metrics]]  # (state, n, episodes=None)
EvaluationFn = Callable[[MetaParams, Array], tuple[dict[str, Estimate], int]]


def _device_list(devices: Sequence[jax.Device] | None) -> list[jax.Device]:
    return list(jax.devices() if devices is None else devices)


def use_cpu_devices(number: int) -> None:
    """Splits the CPU into devices; without effect once a computation has run or XLA_FLAGS say."""
    if "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", number)


def cores_that_divide(tasks: int) -> int:
    """The largest number of this process' CPU cores that divides the tasks."""
    return largest_divisor(tasks, len(os.sched_getaffinity(0)))


def make_train_loop(
    train_step: TrainStep,
    *,
    meta_batch_size: int,
    devices: Sequence[jax.Device] | None = None,
) -> TrainLoop:
    """Runs n meta-steps in one dispatch, each meta-batch split over the devices.

    Args:
      train_step: see `make_train_step`.
      meta_batch_size: B, tasks in a meta-batch over all devices.
      devices: D of them; None takes all there are.

    Returns:
      loop(state, n, episodes=None) -> (state, metrics): episodes [n, B, ...] come from the host, or
      the sampler draws them; metrics are means over the n steps (NaN steps left out), except the
      counts, which are sums. The results do not depend on D or on how steps are grouped
      into dispatches. The state passed in is donated.

    Raises:
      UsageError: B does not divide over D.
    """
    devices = _device_list(devices)
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
    # A fresh state and one that a dispatch returned must look alike, or the loop compiles twice.
    replicated = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec())

    def split(leaf: Any) -> Any:  # [n, B, ...] -> [D, n, B / D, ...]
        return np.moveaxis(leaf.reshape(len(leaf), *task_indices.shape, *leaf.shape[2:]), 1, 0)

    def loop(
        state: TrainState, num_steps: int, episodes: PyTree = None
    ) -> tuple[TrainState, Metrics]:
        state = jax.device_put(state, replicated)
        return dispatch(state, task_indices, jax.tree.map(split, episodes), num_steps)

    return loop


def make_evaluation(
    adapt_fn: AdaptFn,
    query_loss_fn: LossFn,
    sample_episode: EpisodeSampler,
    *,
    num_episodes: int = 600,
    chunk: int = 100,
    devices: Sequence[jax.Device] | None = None,
) -> EvaluationFn:
    """Adapts to fixed episodes and measures the query loss (and aux) after every inner step.

    Args:
      adapt_fn: `adapt` with loss, optimizer and number of steps K bound; training's K or another.
      query_loss_fn: (params, query, key) -> (loss [], aux); entries of a dict aux are measured too.
      sample_episode: key -> (support, query). Episode i is drawn from (key, i): the same key gives
        the same episodes, whatever the devices or chunks.
      num_episodes: number of episodes.
      chunk: episodes adapted at once on a device; bounds memory.
      devices: None takes all there are.

    Returns:
      evaluation(meta_params, key) -> ({"loss": Estimate [K+1], ...}, number of episodes left out as
      not finite). It compiles once.
    """
    if num_episodes < 1:
        raise UsageError(f"num_episodes={num_episodes}: use 1 or more")
    devices = _device_list(devices)
    evaluate_task = make_task_evaluation(adapt_fn, query_loss_fn, sample_episode)
    share = -(-num_episodes // len(devices))
    # Episodes past the last are computed for even shares, and cut off below.
    indices = jnp.arange(share * len(devices)).reshape(len(devices), share)

    def run(meta_params: MetaParams, key: Array, indices: Array) -> dict[str, Any]:
        keys = task_keys(key, jnp.zeros((), jnp.int32), indices)
        return map_tasks(partial(evaluate_task, meta_params), keys, chunk=min(chunk, share))

    mapped = jax.pmap(run, AXIS, in_axes=(None, None, 0), devices=devices)

    def evaluation(meta_params: MetaParams, key: Array) -> tuple[dict[str, Estimate], int]:
        per_episode = mapped(jax.tree.map(strong_array, meta_params), key, indices)
        return summarise(
            {name: v.reshape(-1, *v.shape[2:])[:num_episodes] for name, v in per_episode.items()}
        )

    return evaluation


def evaluate(
    adapt_fn: AdaptFn,
    query_loss_fn: LossFn,
    sample_episode: EpisodeSampler,
    meta_params: MetaParams,
    key: Array,
    **options: Any,
) -> tuple[dict[str, Estimate], int]:
    """`make_evaluation`, called once."""
    evaluation = make_evaluation(adapt_fn, query_loss_fn, sample_episode, **options)
    return evaluation(meta_params, key)
