"""Evaluation on many devices."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from maml_jax import keys
from maml_jax.checks import check_count, check_meta_params, support_and_query
from maml_jax.meta.batching import largest_divisor, map_tasks
from maml_jax.meta.evaluate import (
    EpisodeCounts,
    Estimate,
    PerEpisode,
    make_task_evaluation,
    summarise,
)
from maml_jax.meta.train_step import strong_array
from maml_jax.parallel.devices import AXIS, check_alive, device_list, of_this_process
from maml_jax.types import AdaptFn, Array, EpisodeSampler, LossFn, MetaParams, Metrics, PyTree

_MOST_PARTS = 20  # of an evaluation that shows its progress


class EvaluationFn(Protocol):
    """Evaluates on the episodes of a key: ({"loss": Estimate [K+1], ...}, episode counts)."""

    def __call__(
        self, meta_params: MetaParams, key: Array, /
    ) -> tuple[dict[str, Estimate], EpisodeCounts]: ...


class EpisodeEvaluationFn(Protocol):
    """Evaluates on the episodes of a key: {"loss" and metrics: [episodes, K+1]}."""

    def __call__(self, meta_params: MetaParams, key: Array, /) -> PerEpisode: ...


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
    devices = device_list(devices)
    evaluate_task = make_task_evaluation(adapt, query_loss, sample_episode)
    share = -(-num_episodes // len(devices))
    # Surplus episodes make the shares of all devices equal; they are cut off below.
    every = np.arange(share * len(devices), dtype=np.int32).reshape(len(devices), share)
    indices = every[of_this_process(devices)]
    apart = len(indices) < len(devices)  # the devices of several processes

    def run(indices: Array, meta_params: MetaParams, key: Array, episodes: PyTree) -> Metrics:
        task_keys = keys.task_keys(key, jnp.int32(step), indices)
        given = jax.tree.map(lambda leaf: jnp.asarray(leaf)[indices], episodes)
        of_task = partial(evaluate_task, meta_params)
        values = map_tasks(of_task, task_keys, given, chunk=min(chunk, share))
        return jax.lax.all_gather(values, AXIS) if apart else values

    mapped = jax.pmap(
        run, AXIS, in_axes=(0, None, None, None), out_axes=None if apart else 0, devices=devices
    )

    def evaluation(meta_params: MetaParams, key: Array) -> PerEpisode:
        check_meta_params(meta_params)
        keys.check_key(key)
        check_alive("meta_params", meta_params)
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
