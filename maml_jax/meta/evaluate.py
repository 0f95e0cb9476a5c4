"""Evaluation of tasks after every inner step, with 95% confidence intervals."""

from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from maml_jax import keys
from maml_jax.checks import loss_and_aux, support_and_query
from maml_jax.meta.objective import as_metrics
from maml_jax.meta.sampling import check_sampler
from maml_jax.types import AdaptFn, Array, EpisodeSampler, LossFn, MetaParams, Metrics, Params


class Estimate(NamedTuple):
    """A mean over episodes, the half-width of its 95% confidence interval, and the median."""

    mean: np.ndarray  # [K+1]
    ci95: np.ndarray  # [K+1]
    median: np.ndarray  # [K+1], robust to a few diverged episodes
    finite: np.ndarray  # [K+1], share of the episodes, without diverged ones, that these are over


class TaskEvaluation(Protocol):
    """Evaluates one task: (meta_params, key) -> {"loss" and each entry of a dict aux: [K+1]}."""

    def __call__(self, meta_params: MetaParams, key: Array, /) -> Metrics: ...


def make_task_evaluation(
    adapt: AdaptFn, query_loss: LossFn, sample_episode: EpisodeSampler
) -> TaskEvaluation:
    """Makes the evaluation of one task; see `maml_jax.parallel.make_evaluation`."""

    def evaluate_task(meta_params: MetaParams, key: Array) -> Metrics:
        episode_key, objective_key = keys.split_task_key(key)
        check_sampler(sample_episode, episode_key)
        support, query = support_and_query(sample_episode(episode_key))
        of_task = keys.split_objective_key(objective_key)

        def monitor(params: Params, k: Array) -> Metrics:
            del k
            loss, aux = loss_and_aux(query_loss(params, query, of_task.query), "query_loss")
            return {"loss": loss, **as_metrics(aux)}

        adaptation = adapt(meta_params, support, of_task.adapt, monitor=monitor)
        monitored: Metrics = adaptation.monitored
        return monitored

    return evaluate_task


def summarise(per_episode: dict[str, Array]) -> tuple[dict[str, Estimate], int]:
    """Mean, 1.96 σ/√n and median of arrays [episodes, K+1, ...].

    An episode has diverged if its loss is not finite. Metrics are estimated from the other episodes
    in which they are finite.

    Args:
      per_episode: "loss" [episodes, K+1], and metrics.

    Returns:
      ({name: Estimate}, number of diverged episodes, which are left out in every array).
    """
    converged = np.isfinite(np.asarray(per_episode["loss"])).all(axis=1)
    estimates = {}
    for name, values in per_episode.items():
        kept = np.asarray(values, np.float64)[converged]
        finite = np.ma.masked_invalid(kept)
        number = finite.count(axis=0)
        statistics = (
            finite.mean(axis=0),
            1.96 * finite.std(axis=0, ddof=1) / np.sqrt(number),
            cast(Any, np.ma).median(finite, axis=0),
            number / max(len(kept), 1),
        )
        estimates[name] = Estimate(*(np.ma.filled(of, np.nan) for of in statistics))
    return estimates, int((~converged).sum())
