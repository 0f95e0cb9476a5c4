"""From a config to functions: the state, the train loop and the evaluation of one run."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from maml_jax.algorithms import ALGORITHMS, Algorithm
from maml_jax.config import validate
from maml_jax.inner.adapt import AdaptsFn, adapt
from maml_jax.inner.optimizers import INNER_OPTIMIZERS
from maml_jax.meta.evaluate import Estimate
from maml_jax.meta.objective import AdaptFn, make_objective, multi_step_weights
from maml_jax.meta.outer import OuterStep, optax_outer, outer_chain
from maml_jax.meta.train_step import init_state, make_train_step
from maml_jax.parallel import (
    EvaluationFn,
    TrainLoop,
    cores_that_divide,
    make_evaluation,
    make_train_loop,
    use_cpu_devices,
)
from maml_jax.problems import PROBLEMS, Problem
from maml_jax.tasks.episodes import HostFeed
from maml_jax.types import MetaParams, TrainState

STREAMS = {"init": 0, "train": 1, "validation": 2, "test": 3}
RATE_GRID = (0.0003, 0.001, 0.003, 0.01, 0.03)  # from which a baseline's inner rate is tuned


class Evaluation(NamedTuple):
    """Adaptation to fixed held-out episodes."""

    estimates: dict[str, Estimate]  # "loss" and the problem's metrics, each [K+1]
    nonfinite: int  # episodes left out
    learning_rate: float  # the inner rate that was used


class Experiment(NamedTuple):
    """One run's functions."""

    config: ConfigDict
    problem: Problem
    adapt_fn: AdaptFn  # bound but for the number of steps
    init: Callable[[], TrainState]
    train: TrainLoop
    evaluate: Callable[..., Evaluation]  # (meta_params, stream="test") -> Evaluation


def stream_key(config: ConfigDict, stream: str) -> jax.Array:
    """The key of one use of randomness; `seed` changes all of them."""
    return jax.random.fold_in(jax.random.key(config.seed), STREAMS[stream])


def _outer(config: ConfigDict, algorithm: Algorithm) -> OuterStep:
    outer = config.outer
    rate: Any = outer.learning_rate
    if outer.schedule == "cosine":
        rate = optax.cosine_decay_schedule(rate, config.num_meta_steps)
    optimizers = {
        "adam": lambda: optax.adam(rate),
        "adamw": lambda: optax.adamw(rate, weight_decay=outer.weight_decay),
        "sgd": lambda: optax.sgd(rate),
    }
    learned = {field: optimizers[outer.optimizer]() for field in algorithm.learned}
    return optax_outer(outer_chain(learned, clip=outer.clip or None))


def _adapts(algorithm: Algorithm, problem: Problem) -> AdaptsFn:
    return lambda path: algorithm.adapts(path) and problem.adapts(path)


def _fastest_chunk(config: ConfigDict) -> int | None:
    """CPU: one convolutional network at a time (experiments.benchmark_convolution)."""
    return 1 if config.model.name != "mlp" and jax.default_backend() == "cpu" else None


def _make_train_loop(
    config: ConfigDict, problem: Problem, outer: OuterStep, adapt_fn: AdaptFn, num_steps: int
) -> TrainLoop:
    """The train loop on the device's own episodes, or on those that the host gathers."""
    weights = None
    if config.outer.objective == "multi_step":
        weights = multi_step_weights(num_steps, config.outer.multi_step_anneal)
    train_step = make_train_step(
        problem.sampler(config.task.shots, config.task.query_shots, "train"),
        make_objective(
            partial(adapt_fn, num_steps=num_steps), problem.loss_fn, step_weights=weights
        ),
        outer,
        prepare=problem.prepare,
        tasks_per_chunk=config.tasks_per_chunk or _fastest_chunk(config),
    )
    loop = make_train_loop(train_step, meta_batch_size=config.meta_batch_size)
    if problem.host_episodes is None:
        return loop
    tasks = range(config.meta_batch_size)
    feed = HostFeed(problem.host_episodes(stream_key(config, "train"), tasks))
    return lambda state, number: loop(state, number, feed(int(state.step), number))


def build(config: ConfigDict) -> Experiment:
    """Makes a run's functions; data are loaded, nothing is computed yet.

    Raises:
      UsageError: a key, type or value that is not allowed, or data that cannot be had.
    """
    validate(config)
    convolutional = config.model.name != "mlp"
    automatic = cores_that_divide(config.meta_batch_size) if convolutional else 1
    use_cpu_devices(config.cpu_devices or automatic)
    algorithm = ALGORITHMS[config.algorithm]
    problem = PROBLEMS[config.task.name](config)
    meta_gradient = config.inner.meta_gradient
    if meta_gradient == "auto":
        meta_gradient = algorithm.meta_gradient
    adapt_fn = partial(
        adapt,
        problem.loss_fn,
        INNER_OPTIMIZERS[config.inner.optimizer],
        meta_gradient=meta_gradient,
        adapts=_adapts(algorithm, problem),
        at_step=problem.at_step,
    )
    num_steps = algorithm.train_steps(config.inner.num_steps)
    outer = _outer(config, algorithm)

    def init() -> TrainState:
        meta_params = MetaParams(
            init=problem.init_params(stream_key(config, "init"), num_steps),
            learning_rates=config.inner.learning_rate,
            optimizer={"momentum": config.inner.momentum},
        )
        return init_state(meta_params, outer, stream_key(config, "train"))

    return Experiment(
        config,
        problem,
        adapt_fn,
        init,
        _make_train_loop(config, problem, outer, adapt_fn, num_steps),
        _make_evaluate(config, problem, adapt_fn, algorithm.tunes_rate),
    )


def _make_evaluate(
    config: ConfigDict, problem: Problem, adapt_fn: AdaptFn, tunes_rate: bool
) -> Callable[..., Evaluation]:
    @cache
    def on(stream: str) -> EvaluationFn:
        episodes = {"validation": config.eval.validation_episodes, "test": config.eval.num_episodes}
        return make_evaluation(
            partial(adapt_fn, num_steps=config.eval.num_steps),
            problem.loss_fn,
            problem.sampler(config.eval.shots, config.eval.query_shots, stream),
            num_episodes=episodes[stream],
            chunk=config.eval.chunk,
        )

    def at(meta_params: MetaParams, stream: str) -> tuple[dict[str, Estimate], int]:
        return on(stream)(meta_params, stream_key(config, stream))

    def tuned(meta_params: MetaParams) -> MetaParams:
        tried = {}
        for rate in RATE_GRID:
            estimates, nonfinite = at(meta_params._replace(learning_rates=rate), "validation")
            tried[rate] = np.inf if nonfinite else estimates["loss"].mean[-1]
        return meta_params._replace(learning_rates=min(tried, key=lambda rate: tried[rate]))

    def evaluate(meta_params: MetaParams, stream: str = "test") -> Evaluation:
        if tunes_rate and config.eval.num_steps:
            meta_params = tuned(meta_params)
        return Evaluation(*at(meta_params, stream), float(meta_params.learning_rates))

    return evaluate
