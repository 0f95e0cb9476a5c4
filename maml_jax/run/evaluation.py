"""Evaluation of a run on its validation and test episodes."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from maml_jax.inner.adapt import InnerLoop
from maml_jax.inner.optimizers.registry import INNER_OPTIMIZERS
from maml_jax.keys import gate_key, stream_key
from maml_jax.lengths.gates import Gates
from maml_jax.lengths.schedule import Schedule
from maml_jax.meta.evaluate import EpisodeCounts, Estimate, PerEpisode, summarise
from maml_jax.parallel import EpisodeEvaluationFn, make_episode_evaluation
from maml_jax.run.messages import evaluating
from maml_jax.run.problems import Problem
from maml_jax.run.spec import RunSpec
from maml_jax.types import Adaptation, AdaptFn, Array, MetaParams, Monitor, Params, PyTree

STEP_SIZE_GRID = (0.03, 0.1, 0.3, 1.0, 3.0)  # times α: where a baseline's step size is tuned


def first_step_size(spec: RunSpec) -> float:
    """α; 1 for a method that finds its own step size: it takes α as its first step."""
    own_step = INNER_OPTIMIZERS[spec.inner.optimizer].own_step
    return 1.0 if own_step else float(spec.inner.step_size)


class Evaluation(NamedTuple):
    """Adaptation to fixed held-out episodes."""

    estimates: dict[str, Estimate]  # "loss" and the problem's metrics, each [K+1]
    counts: EpisodeCounts
    step_size: float | None  # the step size that was used; None if step sizes are learned
    per_episode: PerEpisode


class EvaluateFn(Protocol):
    """Evaluates meta-parameters on the validation or test stream.

    Gates are hard, or soft as in training; with hard ones, the loop may be compiled for a schedule.
    """

    def __call__(
        self,
        meta_params: MetaParams,
        stream: str = "test",
        *,
        soft: bool = False,
        schedule: Schedule | None = None,
    ) -> Evaluation: ...


def with_soft_gates(inner_loop: InnerLoop, gates: Gates, temperature: float) -> AdaptFn:
    """The inner loop with the gates of training, each task's noise included."""

    def adapt(meta_params: MetaParams, support: Any, key: Array, *, monitor: Monitor) -> Adaptation:
        soft = dataclasses.replace(inner_loop, gates=gates.soft(temperature, gate_key(key)))
        return soft(meta_params, support, key, monitor=monitor)

    return adapt


def with_later_step_sizes(
    make: Callable[[int], InnerLoop], factor: float
) -> Callable[[int], InnerLoop]:
    """Number of steps -> inner loop, whose step sizes change by a factor after the first step."""

    def inner_loop(num_steps: int) -> InnerLoop:
        loop = make(num_steps)

        def step_sizes(values: PyTree, params: Params, k: Array) -> PyTree:
            scale = jnp.where(k > 0, factor, 1.0)
            alphas = loop.step_sizes(values, params, k)
            return jax.tree.map(lambda alpha: (alpha * scale).astype(alpha.dtype), alphas)

        return dataclasses.replace(loop, step_sizes=step_sizes)

    return make if factor == 1 else inner_loop


# Compiled evaluations by what they depend on: runs that differ in their seeds alone share them.
Programs = dict[tuple[Any, ...], EpisodeEvaluationFn]


def _program(spec: RunSpec, problem: Problem, adapt: AdaptFn, stream: str) -> EpisodeEvaluationFn:
    episodes = {"validation": spec.eval.validation_episodes, "test": spec.eval.num_episodes}
    return make_episode_evaluation(
        adapt,
        problem.query_loss or problem.loss,
        problem.sampler(spec.eval.shots, spec.eval.query_shots, stream),
        num_episodes=episodes[stream],
        chunk=spec.eval.chunk,
        step=0,  # the key is that of the stream
        progress=evaluating,
    )


def make_evaluate(
    spec: RunSpec,
    problem: Problem,
    inner_loop: InnerLoop,
    gates: Gates | None,
    programs: Programs,
) -> EvaluateFn:
    """The evaluation of a run.

    An algorithm that tunes its step size at test does so on the validation stream.

    Args:
      spec: of the run.
      problem: its tasks and its network.
      inner_loop: with hard gates.
      gates: of learned lengths; None if none are learned.
      programs: what it compiles, and what runs of the same program have compiled.
    """
    last = spec.lengths.final_temperature
    numbers = (
        spec.task.ways,
        spec.inner.clip_norm,
        inner_loop.proximal,
        spec.eval.later_step_sizes,
    )

    def on(stream: str, soft: bool, schedule: Schedule | None) -> EpisodeEvaluationFn:
        soft_gates = gates if soft else None
        of = (*numbers, stream, schedule, None if soft_gates is None else last)
        if of not in programs:
            adapt: AdaptFn = dataclasses.replace(inner_loop, schedule=schedule)
            if soft_gates is not None:
                adapt = with_soft_gates(inner_loop, soft_gates, last)
            programs[of] = _program(spec, problem, adapt, stream)
        return programs[of]

    def at(
        meta_params: MetaParams,
        stream: str,
        soft: bool = False,
        schedule: Schedule | None = None,
    ) -> PerEpisode:
        return on(stream, soft, schedule)(meta_params, stream_key(spec.seed, stream))

    def tuned(meta_params: MetaParams) -> MetaParams:
        tried = {}
        for step_size in (first_step_size(spec) * factor for factor in STEP_SIZE_GRID):
            values = at(meta_params._replace(step_sizes=step_size), "validation")
            estimates, counts = summarise(values, problem.diverged)
            loss = estimates["loss"].finite_mean[-1]
            tried[step_size] = np.inf if counts.not_finite else loss
        return meta_params._replace(step_sizes=min(tried, key=lambda size: tried[size]))

    def evaluate(
        meta_params: MetaParams,
        stream: str = "test",
        *,
        soft: bool = False,
        schedule: Schedule | None = None,
    ) -> Evaluation:
        if spec.entry.tunes_step_size and spec.eval.num_steps:
            meta_params = tuned(meta_params)
        sizes = meta_params.step_sizes
        step_size = None if isinstance(sizes, dict) else float(sizes)
        per_episode = at(meta_params, stream, soft, schedule)
        return Evaluation(*summarise(per_episode, problem.diverged), step_size, per_episode)

    return evaluate
