"""From a config to functions: the state, the train loop and the evaluation of one run."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from maml_jax.algorithms import ALGORITHMS
from maml_jax.config import automatic, validate
from maml_jax.inner.adapt import AdaptsFn, adapt
from maml_jax.inner.gradients import META_GRADIENTS, implicit
from maml_jax.inner.halting import Halting, always_on
from maml_jax.inner.learning_rates import RATES
from maml_jax.inner.optimizers import (
    INNER_OPTIMIZERS,
    initial_hyper_params,
    make_inner_optimizer,
)
from maml_jax.meta.cost import Budget, LearnedLengths, annealed, compute_cost, mean_length_cost
from maml_jax.meta.evaluate import Estimate
from maml_jax.meta.objective import GATES, AdaptFn, make_objective, multi_step_weights
from maml_jax.meta.outer import OuterStep, keep_within, optax_outer, outer_chain
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
from maml_jax.schedule import Schedule
from maml_jax.tasks.episodes import HostFeed
from maml_jax.types import Adaptation, Array, MetaParams, Metrics, PyTree, TrainState

STREAMS = {"init": 0, "train": 1, "validation": 2, "test": 3, "halting": 4}
RATE_GRID = (0.03, 0.1, 0.3, 1.0, 3.0)  # times α: from which a baseline's inner rate is tuned


class Evaluation(NamedTuple):
    """Adaptation to fixed held-out episodes."""

    estimates: dict[str, Estimate]  # "loss" and the problem's metrics, each [K+1]
    nonfinite: int  # episodes left out
    learning_rate: float | None  # the inner rate that was used; None where rates are learned


class Experiment(NamedTuple):
    """One run's functions."""

    config: ConfigDict
    problem: Problem
    adapt_fn: AdaptFn  # bound but for the number of steps; with hard gates
    init: Callable[[], TrainState]
    train: TrainLoop
    evaluate: Callable[..., Evaluation]  # (meta_params, stream="test", soft=False) -> Evaluation
    schedule: Schedule


def stream_key(config: ConfigDict, stream: str) -> jax.Array:
    """The key of one use of randomness; `seed` changes all of them."""
    return jax.random.fold_in(jax.random.key(config.seed), STREAMS[stream])


def _outer_optimizers(
    config: ConfigDict, schedule: str, halting: Halting | None
) -> dict[str, optax.GradientTransformation]:
    """Learned field of MetaParams -> its optimizer."""
    outer = config.outer

    def over_time(rate: float) -> Any:
        if schedule == "cosine":
            return optax.cosine_decay_schedule(rate, config.num_meta_steps)
        return rate

    rate = over_time(outer.learning_rate)
    optimizers = {
        "adam": lambda: optax.adam(rate),
        "adamw": lambda: optax.adamw(rate, weight_decay=outer.weight_decay),
        "sgd": lambda: optax.sgd(rate),
    }
    learned = {"init": optimizers[outer.optimizer]()}
    if halting is not None:
        default = 0.05 if halting.kind.is_length else 0.0075
        lengths_rate = over_time(outer.halting_learning_rate or default)
        learned["halting"] = optax.chain(
            optax.adam(_from_step(outer.halting_from, lengths_rate)), keep_within(*halting.bounds)
        )
    if automatic(config)["inner.rates"] != "fixed":
        learned["learning_rates"] = optax.adam(over_time(outer.rates_learning_rate))
    if config.inner.learn_optimizer != "none":
        learned["optimizer"] = optax.adam(over_time(outer.optimizer_learning_rate))
    return learned


def _from_step(start: int, rate: Any) -> optax.Schedule:
    """0 before the start, so that Adam's moments are ready by then."""

    def schedule(count: Array) -> Array:
        return jnp.where(count < start, 0.0, rate(count) if callable(rate) else rate)

    return schedule


def _one_by_one(config: ConfigDict) -> bool:
    """Whether a CPU core is fastest with one task at a time: networks of images."""
    return bool(config.task.name == "images")


def _fastest_chunk(config: ConfigDict) -> int | None:
    return 1 if _one_by_one(config) and jax.default_backend() == "cpu" else None


def _learned_lengths(config: ConfigDict, halting: Halting, schedule: Schedule) -> LearnedLengths:
    """Cost and temperature of learned lengths."""
    settings = config.halting
    if settings.cost == "compute":
        cost = compute_cost(halting, schedule.moving, schedule.costs)
    else:
        cost = mean_length_cost(halting, schedule.moving)
    temperature = annealed(settings.temperature, settings.final_temperature, config.num_meta_steps)
    budget = Budget(settings.cost_weight, settings.budget or None, settings.dual_rate)
    return LearnedLengths(halting, temperature, cost, budget)


def _make_train_loop(
    config: ConfigDict,
    problem: Problem,
    outer: OuterStep,
    adapt_fn: AdaptFn,
    lengths: LearnedLengths | None,
    learned: tuple[str, ...],
) -> TrainLoop:
    """The train loop on the device's own episodes, or on those that the host gathers."""
    num_steps = ALGORITHMS[config.algorithm].train_steps(config.inner.num_steps)
    weights = None
    if automatic(config)["outer.objective"] == "multi_step":
        weights = multi_step_weights(num_steps, config.outer.multi_step_anneal)
    sampler = feed = None
    if problem.host_episodes is None:
        sampler = problem.sampler(config.task.shots, config.task.query_shots, "train")
    else:
        tasks = range(config.meta_batch_size)
        feed = HostFeed(problem.host_episodes(stream_key(config, "train"), tasks))

    def loop_of(**flow: Any) -> TrainLoop:
        objective = make_objective(
            partial(adapt_fn, num_steps=num_steps, **flow),
            problem.loss_fn,
            step_weights=weights,
            lengths=lengths,
        )
        train_step = make_train_step(
            sampler,
            objective,
            outer,
            prepare=problem.prepare,
            tasks_per_chunk=config.tasks_per_chunk or _fastest_chunk(config),
            task_clip_norm=config.outer.task_clip_norm or None,
            learned=learned,
        )
        return make_train_loop(train_step, meta_batch_size=config.meta_batch_size)

    first_order, loop = loop_of(meta_gradient="first_order"), loop_of()

    def train(state: TrainState, number: int) -> tuple[TrainState, Metrics]:
        step = int(state.step)
        episodes = None if feed is None else feed(step, number)
        phase = first_order if step < config.inner.first_order_until else loop
        return phase(state, number, episodes)

    return train


def _granularity(config: ConfigDict) -> str:
    """Of the inner optimizer's momentum."""
    learned: str = config.inner.learn_optimizer
    return "global" if learned == "none" else learned


def _make_adapt(
    config: ConfigDict, problem: Problem, schedule: Schedule, adapts: AdaptsFn
) -> AdaptFn:
    """`adapt` with hard gates, bound but for the number of steps."""
    settings, inner, halting = automatic(config), config.inner, schedule.halting
    flow = META_GRADIENTS[settings["inner.meta_gradient"]]
    bound = {
        "halting": always_on if halting is None else halting.hard,
        "rates": RATES[settings["inner.rates"]].rates,
        "meta_gradient": implicit(inner.cg_steps) if flow.needs_proximal else flow,
        "proximal": inner.proximal if flow.needs_proximal else 0.0,
        "adapts": adapts,
        "at_step": problem.at_step,
    }

    def adapt_fn(
        meta_params: MetaParams, support: PyTree, key: Array, *, num_steps: int, **changes: Any
    ) -> Adaptation:
        options: Any = {**bound, **changes}
        make_optimizer = make_inner_optimizer(
            inner.optimizer, schedule.moving, num_steps, _granularity(config)
        )
        return adapt(
            problem.loss_fn,
            make_optimizer,
            *(meta_params, support, key),
            num_steps=num_steps,
            **options,
        )

    return adapt_fn


def _first_rate(config: ConfigDict) -> float:
    """α; 1 for a method that finds its step size: it takes the learning rate as its first step."""
    own_step = INNER_OPTIMIZERS[config.inner.optimizer].own_step
    return 1.0 if own_step else float(config.inner.learning_rate)


def _make_init(
    config: ConfigDict, problem: Problem, schedule: Schedule, outer: OuterStep
) -> Callable[[], TrainState]:
    inner, halting = config.inner, schedule.halting
    num_steps = ALGORITHMS[config.algorithm].train_steps(inner.num_steps)
    rates = RATES[automatic(config)["inner.rates"]]

    def init() -> TrainState:
        meta_params = MetaParams(
            init=problem.init_params(stream_key(config, "init"), num_steps),
            learning_rates=rates.init(schedule.moving, _first_rate(config), num_steps),
            optimizer=initial_hyper_params(
                inner.optimizer,
                schedule.moving,
                learning_rate=inner.learning_rate,
                momentum=inner.momentum,
                inverse_condition=inner.inverse_condition,
                granularity=_granularity(config),
            ),
        )
        extras: PyTree = ()
        if halting is not None:
            length = config.halting.initial_length
            length = num_steps / 2 if length < 0 else length
            learned = halting.init(schedule.moving, length, stream_key(config, "halting"))
            meta_params = meta_params._replace(halting=learned)
            extras = {"dual": jnp.zeros(())}
        return init_state(meta_params, outer, stream_key(config, "train"), extras)

    return init


def build(config: ConfigDict) -> Experiment:
    """Makes a run's functions; data are loaded, nothing is computed yet.

    Raises:
      UsageError: a key, type or value that is not allowed, or data that cannot be had.
    """
    validate(config)
    cores = cores_that_divide(config.meta_batch_size) if _one_by_one(config) else 1
    use_cpu_devices(config.cpu_devices or cores)
    algorithm, settings = ALGORITHMS[config.algorithm], automatic(config)
    problem = PROBLEMS[config.task.name](config)

    def adapts(path: str) -> bool:
        return algorithm.adapts(path) and (algorithm.norms_adapt or problem.adapts(path))

    halting = lengths = None
    if settings["halting.gate"] != "none":
        halting = Halting(
            settings["halting.gate"],
            settings["halting.granularity"],
            num_steps=config.inner.num_steps,
        )
    schedule = Schedule(config, problem, adapts, halting)
    if halting is not None:
        lengths = _learned_lengths(config, halting, schedule)
    adapt_fn = _make_adapt(config, problem, schedule, adapts)
    learned = _outer_optimizers(config, settings["outer.schedule"], halting)
    clip = {key: config.outer[key] or None for key in ("clip", "clip_norm")}
    outer = optax_outer(outer_chain(learned, **clip))
    return Experiment(
        config,
        problem,
        adapt_fn,
        _make_init(config, problem, schedule, outer),
        _make_train_loop(config, problem, outer, adapt_fn, lengths, tuple(learned)),
        _make_evaluate(config, problem, adapt_fn, halting),
        schedule,
    )


def _with_soft_gates(adapt_fn: AdaptFn, halting: Halting, temperature: float) -> AdaptFn:
    """The inner loop with the gates of training, each task's noise included."""

    def run(meta_params: MetaParams, support: Any, key: Array, **options: Any) -> Adaptation:
        gates = halting.soft(temperature, jax.random.fold_in(key, GATES))
        return adapt_fn(meta_params, support, key, halting=gates, **options)

    return run


def _make_evaluate(
    config: ConfigDict, problem: Problem, adapt_fn: AdaptFn, halting: Halting | None
) -> Callable[..., Evaluation]:
    @cache
    def on(stream: str, soft: bool) -> EvaluationFn:
        episodes = {"validation": config.eval.validation_episodes, "test": config.eval.num_episodes}
        run = adapt_fn
        if soft and halting is not None:
            run = _with_soft_gates(adapt_fn, halting, config.halting.final_temperature)
        return make_evaluation(
            partial(run, num_steps=config.eval.num_steps),
            problem.loss_fn,
            problem.sampler(config.eval.shots, config.eval.query_shots, stream),
            num_episodes=episodes[stream],
            chunk=config.eval.chunk,
        )

    def at(
        meta_params: MetaParams, stream: str, soft: bool = False
    ) -> tuple[dict[str, Estimate], int]:
        return on(stream, soft)(meta_params, stream_key(config, stream))

    def tuned(meta_params: MetaParams) -> MetaParams:
        tried = {}
        for rate in (_first_rate(config) * factor for factor in RATE_GRID):
            estimates, nonfinite = at(meta_params._replace(learning_rates=rate), "validation")
            tried[rate] = np.inf if nonfinite else estimates["loss"].mean[-1]
        return meta_params._replace(learning_rates=min(tried, key=lambda rate: tried[rate]))

    def evaluate(meta_params: MetaParams, stream: str = "test", soft: bool = False) -> Evaluation:
        if ALGORITHMS[config.algorithm].tunes_rate and config.eval.num_steps:
            meta_params = tuned(meta_params)
        rates = meta_params.learning_rates
        rate = None if isinstance(rates, dict) else float(rates)
        return Evaluation(*at(meta_params, stream, soft), rate)

    return evaluate
