"""Evaluation on fixed episodes, with a 95% confidence interval after every inner step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from maml_jax.meta.objective import AdaptFn
from maml_jax.types import Array, EpisodeSampler, LossFn, MetaParams, PyTree


class Estimate(NamedTuple):
    """A mean over episodes, the half-width of its 95% confidence interval, and the median."""

    mean: np.ndarray  # [K+1]
    ci95: np.ndarray  # [K+1]
    median: np.ndarray  # [K+1], which a few diverging episodes leave alone


def make_task_evaluation(
    adapt_fn: AdaptFn, query_loss_fn: LossFn, sample_episode: EpisodeSampler
) -> Callable[[MetaParams, Array], dict[str, Array]]:
    """(meta_params, episode key) -> {"loss": [K+1], and each entry of a dict aux: [K+1]}."""

    def evaluate_task(meta_params: MetaParams, key: Array) -> dict[str, Array]:
        # The same split as in a meta-step: an episode has one key, in training and in test.
        episode_key, objective_key = jax.random.split(key)
        support, query = sample_episode(episode_key)
        adapt_key, query_key = jax.random.split(objective_key)

        def monitor(params: PyTree, k: Array) -> dict[str, Any]:
            del k
            loss, aux = query_loss_fn(params, query, query_key)
            return {"loss": loss, **(aux if isinstance(aux, dict) else {})}

        return adapt_fn(meta_params, support, adapt_key, monitor=monitor).monitored

    return evaluate_task


def summarise(per_episode: dict[str, Array]) -> tuple[dict[str, Estimate], int]:
    """Mean and 1.96 σ/√n of [episodes, K+1, ...] arrays over the episodes that stayed finite.

    Returns:
      ({name: Estimate}, number of episodes left out because a value was not finite).
    """
    values = {name: np.asarray(value, np.float64) for name, value in per_episode.items()}
    finite = np.all(
        [np.isfinite(v).all(axis=tuple(range(1, v.ndim))) for v in values.values()], axis=0
    )
    number = int(finite.sum())
    estimates = {}
    for name, value in values.items():
        kept = value[finite] if number else np.full((1, *value.shape[1:]), np.nan)
        spread = kept.std(axis=0, ddof=1) if number > 1 else np.full(value.shape[1:], np.nan)
        ci95 = 1.96 * spread / np.sqrt(max(number, 1))
        estimates[name] = Estimate(kept.mean(axis=0), ci95, np.median(kept, axis=0))
    return estimates, int((~finite).sum())
