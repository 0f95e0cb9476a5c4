"""Evaluation of tasks after every inner step, with 95% confidence intervals."""

from typing import NamedTuple, Protocol

import numpy as np

from maml_jax import keys
from maml_jax.meta.objective import as_metrics
from maml_jax.types import AdaptFn, Array, EpisodeSampler, LossFn, MetaParams, Metrics, Params


class Estimate(NamedTuple):
    """A mean over episodes, the half-width of its 95% confidence interval, and the median."""

    mean: np.ndarray  # [K+1]
    ci95: np.ndarray  # [K+1]
    median: np.ndarray  # [K+1], robust to a few diverged episodes


class TaskEvaluation(Protocol):
    """Evaluates one task: (meta_params, key) -> {"loss" and each entry of a dict aux: [K+1]}."""

    def __call__(self, meta_params: MetaParams, key: Array, /) -> Metrics: ...


def make_task_evaluation(
    adapt: AdaptFn, query_loss: LossFn, sample_episode: EpisodeSampler
) -> TaskEvaluation:
    """Makes the evaluation of one task; see `maml_jax.parallel.make_evaluation`."""

    def evaluate_task(meta_params: MetaParams, key: Array) -> Metrics:
        episode_key, objective_key = keys.split_task_key(key)
        support, query = sample_episode(episode_key)
        of_task = keys.split_objective_key(objective_key)

        def monitor(params: Params, k: Array) -> Metrics:
            del k
            loss, aux = query_loss(params, query, of_task.query)
            return {"loss": loss, **as_metrics(aux)}

        adaptation = adapt(meta_params, support, of_task.adapt, monitor=monitor)
        monitored: Metrics = adaptation.monitored
        return monitored

    return evaluate_task


def summarise(per_episode: dict[str, Array]) -> tuple[dict[str, Estimate], int]:
    """Mean, 1.96 σ/√n and median of arrays [episodes, K+1, ...] over the finite episodes.

    Returns:
      ({name: Estimate}, number of diverged episodes, which are left out in every array).
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
