"""Evaluation of tasks after every inner step, with 95% confidence intervals."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike

from maml_jax import keys
from maml_jax.checks import loss_and_aux, support_and_query
from maml_jax.meta.objective import as_metrics
from maml_jax.meta.sampling import check_sampler
from maml_jax.types import (
    AdaptFn,
    Array,
    EpisodeSampler,
    LossFn,
    MetaParams,
    Metrics,
    Params,
    PyTree,
)

DIVERGED = 10.0  # times the loss before adaptation

PerEpisode = dict[str, np.ndarray]  # "loss" and metrics -> values [episodes, K+1]


class Estimate(NamedTuple):
    """Statistics of one metric over episodes, after every inner step."""

    mean: np.ndarray  # [K+1], without the diverged episodes; an accuracy is that of all episodes
    ci95: np.ndarray  # [K+1], half-width of the 95% confidence interval of `mean`
    median: np.ndarray  # [K+1], over all episodes
    finite: np.ndarray  # [K+1], share of the episodes of `mean` where the metric is finite
    finite_mean: np.ndarray  # [K+1], for selecting: over episodes with finite losses, or all


class EpisodeCounts(NamedTuple):
    """How many episodes there were, and how many of them went wrong."""

    total: int
    diverged: int  # not finite, or far above the loss before adaptation; not in `Estimate.mean`
    not_finite: int


class TaskEvaluation(Protocol):
    """Evaluates one task: (meta_params, key) -> {"loss" and each entry of a dict aux: [K+1]}.

    The task is a given episode or, if that is None, one that the key draws.
    """

    def __call__(
        self, meta_params: MetaParams, key: Array, episode: PyTree = None, /
    ) -> Metrics: ...


def make_task_evaluation(
    adapt: AdaptFn, query_loss: LossFn, sample_episode: EpisodeSampler | None
) -> TaskEvaluation:
    """Makes the evaluation of one task; see `maml_jax.parallel.make_evaluation`."""

    def evaluate_task(meta_params: MetaParams, key: Array, episode: PyTree = None) -> Metrics:
        episode_key, objective_key = keys.split_task_key(key)
        if sample_episode is not None:
            check_sampler(sample_episode, episode_key)
            episode = sample_episode(episode_key)
        support, query = support_and_query(episode)
        of_task = keys.split_objective_key(objective_key)

        def monitor(params: Params, k: Array) -> Metrics:
            del k
            loss, aux = loss_and_aux(query_loss(params, query, of_task.query), "query_loss")
            return {"loss": loss, **as_metrics(aux)}

        adaptation = adapt(meta_params, support, of_task.adapt, monitor=monitor)
        monitored: Metrics = adaptation.monitored
        return monitored

    return evaluate_task


def diverged(losses: np.ndarray, factor: float = DIVERGED) -> np.ndarray:
    """Whether the loss of each episode [episodes, K+1] explodes in adaptation, [episodes].

    It does if it is not finite after some step, or more than `factor` times as large as before
    adaptation (its own or, if that is larger, the median of all episodes). A loss that is negative
    before adaptation explodes if it rises by factor - 1 times its size.
    """
    finite = np.isfinite(losses).all(axis=1)
    before = losses[:, :1]
    usual = np.maximum(before, np.median(before[finite]) if finite.any() else 0.0)
    if np.isinf(factor):
        return np.asarray(~finite)
    bound = np.where(usual < 0, 2 - factor, factor) * usual
    return np.asarray(~finite | (losses > bound).any(axis=1))


def summarise(
    per_episode: Mapping[str, ArrayLike], factor: float = DIVERGED
) -> tuple[dict[str, Estimate], EpisodeCounts]:
    """Mean, 1.96 σ/√n and median of arrays [episodes, K+1, ...].

    A few diverged episodes would decide a mean of losses. They are counted instead: means are taken
    over the other episodes, and medians over all. An accuracy is bounded, and without the episodes
    that went wrong it would be too high: "accuracy" is estimated from all episodes. Metrics are
    estimated from the episodes in which they are finite.

    Args:
      per_episode: "loss" [episodes, K+1], and metrics.
      factor: an episode diverges if its loss rises by this factor; infinity: if it is not finite.

    Returns:
      ({name: Estimate}, the counts of episodes).
    """
    losses = np.asarray(per_episode["loss"], np.float64)
    finite = np.isfinite(losses).all(axis=1)
    converged = ~diverged(losses, factor)
    estimates = {}
    for name, values in per_episode.items():
        every = np.ma.masked_invalid(np.asarray(values, np.float64))
        kept, usable = every[converged], every[finite]
        if name == "accuracy":
            kept = usable = every
        number = kept.count(axis=0)
        of_all = np.where(np.isfinite(losses), losses, np.inf) if name == "loss" else usable
        statistics = (
            kept.mean(axis=0),
            1.96 * kept.std(axis=0, ddof=1) / np.sqrt(number),
            cast(Any, np.ma).median(of_all, axis=0),
            number / max(len(kept), 1),
            usable.mean(axis=0),
        )
        estimates[name] = Estimate(*(np.ma.filled(of, np.nan) for of in statistics))
    counts = EpisodeCounts(len(losses), int((~converged).sum()), int((~finite).sum()))
    return estimates, counts
