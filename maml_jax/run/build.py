"""From a config to functions: the state, the train loop and the evaluation of one run."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from maml_jax.inner.adapt import InnerLoop
from maml_jax.inner.meta_gradients import META_GRADIENTS, implicit
from maml_jax.inner.optimizers.clipping import clip_by_norm
from maml_jax.inner.step_sizes import STEP_SIZES
from maml_jax.keys import stream_key
from maml_jax.lengths.cost import Budget, LearnedLengths, annealed, compute_cost, mean_length_cost
from maml_jax.lengths.gates import Gates, always_on
from maml_jax.lengths.schedule import Schedule
from maml_jax.meta.objective import Objective, multi_step_weights
from maml_jax.meta.outer import OuterStep
from maml_jax.meta.train_step import TrainStep, init_state, with_constant_lengths
from maml_jax.parallel import (
    cores_that_divide,
    make_train_loop,
    use_cpu_devices,
)
from maml_jax.run.config import completed, resolve
from maml_jax.run.ensemble import EvaluateEnsembleFn, make_ensemble_evaluation
from maml_jax.run.evaluation import (
    EvaluateFn,
    Evaluation,
    first_step_size,
    make_evaluate,
    with_later_step_sizes,
)
from maml_jax.run.learned import LearnedSummary
from maml_jax.run.outer import make_outer_step
from maml_jax.run.problems import TASKS, Inputs, Problem
from maml_jax.run.spec import RunSpec
from maml_jax.run.ways import with_ways
from maml_jax.tasks.host import HostFeed
from maml_jax.types import (
    MakeOptimizer,
    MetaParams,
    Metrics,
    PyTree,
    TrainLoop,
    TrainState,
)


class InitFn(Protocol):
    """Makes the state before the first meta-step, of meta-parameters that `change` may replace."""

    def __call__(self, change: Callable[[MetaParams], MetaParams] = ..., /) -> TrainState: ...


class Experiment(NamedTuple):
    """One run's functions."""

    config: ConfigDict
    spec: RunSpec
    problem: Problem
    inner_loop: Callable[[int], InnerLoop]  # number of steps -> inner loop, with hard gates
    init: InitFn
    train: TrainLoop
    evaluate: EvaluateFn
    evaluate_ensemble: EvaluateEnsembleFn
    learned: LearnedSummary
    at_test: "Callable[[MetaParams], tuple[Experiment, MetaParams]]"  # with outputs for eval.ways


def _one_by_one(spec: RunSpec) -> bool:
    """Whether a CPU core is fastest with one task at a time: networks of images."""
    return spec.task.name == "images"


def fastest_chunk(spec: RunSpec) -> int | None:
    """How many tasks at once are fastest on the backend; None: all."""
    return 1 if _one_by_one(spec) and jax.default_backend() == "cpu" else None


def _learned_lengths(spec: RunSpec, gates: Gates, learned: LearnedSummary) -> LearnedLengths:
    """Cost and temperature of learned lengths."""
    settings = spec.lengths
    if settings.cost == "compute":
        cost = compute_cost(gates, learned.adapted, learned.costs)
    else:
        cost = mean_length_cost(gates, learned.adapted)
    temperature = annealed(settings.temperature, settings.final_temperature, spec.num_meta_steps)
    budget = Budget(settings.cost_weight, settings.budget or None, settings.dual_rate)
    return LearnedLengths(gates, temperature, cost, budget)


def _make_train_loop(
    spec: RunSpec,
    train_step: TrainStep,
    problem: Problem,
    learned: LearnedSummary,
    *,
    training: bool,
) -> TrainLoop:
    """The train loop on the device's own episodes, or on those that the host gathers.

    It begins with `inner.first_order_until` meta-steps of first-order meta-gradients, and from
    `lengths.freeze_at` on it is compiled for the lengths that are learned until then.
    """
    feed = None
    if problem.host_episodes is not None:
        tasks = range(spec.meta_batch_size)
        feed = HostFeed(problem.host_episodes(stream_key(spec.seed, "train"), tasks))
    objective = train_step.objective
    assert isinstance(objective, Objective)
    inner_loop, freezes = objective.inner_loop, spec.learns_lengths

    @cache
    def phase(first: bool, schedule: Schedule | None) -> TrainLoop:
        loop = dataclasses.replace(inner_loop, schedule=schedule)
        if first:
            loop = dataclasses.replace(loop, meta_gradient="first_order")
        step = dataclasses.replace(
            train_step, objective=dataclasses.replace(objective, inner_loop=loop)
        )
        if schedule is not None:
            step = with_constant_lengths(step)
        return make_train_loop(step, meta_batch_size=spec.meta_batch_size)

    def train(
        state: TrainState, num_steps: int, episodes: PyTree = None
    ) -> tuple[TrainState, Metrics]:
        step = int(state.step)
        episodes = feed(step, num_steps) if feed is not None else episodes
        schedule = None
        if freezes and step >= spec.freeze_step:
            schedule = learned.schedule(state.meta_params, spec.train_steps)
        return phase(step < spec.inner.first_order_until, schedule)(state, num_steps, episodes)

    if training:  # tells at once what the devices do not allow
        phase(False, None)
    return train


def _make_inner_loop(
    spec: RunSpec, problem: Problem, learned: LearnedSummary
) -> Callable[[int], InnerLoop]:
    """Number of steps -> inner loop, with hard gates."""
    inner, gates = spec.inner, learned.gates
    estimator = META_GRADIENTS[inner.meta_gradient]

    def make_optimizer(num_steps: int) -> MakeOptimizer:
        make = learned.make_optimizer(num_steps)
        if not inner.clip_norm:
            return make
        return lambda hyper: optax.chain(clip_by_norm(inner.clip_norm), make(hyper))

    def inner_loop(num_steps: int) -> InnerLoop:
        return InnerLoop(
            problem.loss,
            make_optimizer(num_steps),
            num_steps=num_steps,
            gates=always_on if gates is None else gates.hard,
            step_sizes=STEP_SIZES[inner.step_sizes].at_step,
            meta_gradient=implicit(inner.cg_steps) if estimator.needs_proximal else estimator,
            proximal=inner.proximal if estimator.needs_proximal else 0.0,
            adapts=learned.adapts,
            at_step=problem.at_step,
            support_at=problem.support_at,
        )

    return inner_loop


def _unchanged(meta_params: MetaParams) -> MetaParams:
    return meta_params


def _make_init(
    spec: RunSpec, problem: Problem, learned: LearnedSummary, outer: OuterStep
) -> InitFn:
    inner, num_steps, gates = spec.inner, spec.train_steps, learned.gates

    def init(change: Callable[[MetaParams], MetaParams] = _unchanged) -> TrainState:
        meta_params = MetaParams(
            init=problem.init_params(stream_key(spec.seed, "init"), num_steps),
            step_sizes=STEP_SIZES[inner.step_sizes].init(
                learned.adapted, first_step_size(spec), num_steps
            ),
            optimizer=learned.initial_hyper_params(),
        )
        extras: PyTree = ()
        if gates is not None:
            length = spec.lengths.initial_length
            length = num_steps / 2 if length < 0 else length
            lengths = gates.init(learned.adapted, length, stream_key(spec.seed, "lengths"))
            meta_params = meta_params._replace(lengths=lengths)
            extras = {"dual": jnp.zeros(())}
        return init_state(change(meta_params), outer, stream_key(spec.seed, "train"), extras)

    return init


def build(config: ConfigDict, *, training: bool = True, inputs: Inputs | None = None) -> Experiment:
    """Makes a run's functions; data are loaded, nothing is computed yet.

    Args:
      config: see `maml_jax.run.config.default_config`.
      training: False for a run that is only evaluated, which any number of devices can do.
      inputs: what its network takes, for a run that only adapts to examples that it is given: no
        data are loaded.

    Raises:
      UsageError: a key, type or value that is not allowed, or data that cannot be had.
    """
    spec = resolve(config)
    config = completed(config)
    if inputs is None:
        cores = cores_that_divide(spec.meta_batch_size) if _one_by_one(spec) else 1
        use_cpu_devices(spec.cpu_devices or cores)
    task = TASKS[spec.task.name]
    if inputs is not None and task.without_data is not None:
        problem = task.without_data(spec, inputs)
    else:
        problem = task.build(spec)
    return _assemble(config, spec, problem, training=training)


def for_ways(experiment: Experiment, ways: int) -> Experiment:
    """A run's functions, but for training, with outputs for another number of classes."""
    config = ConfigDict(experiment.config.to_dict())
    config.task.ways = config.eval.ways = ways
    spec, task = resolve(config), TASKS[experiment.spec.task.name]
    problem, inputs = experiment.problem, experiment.problem.inputs
    if task.without_data is not None and inputs is not None:
        problem = task.without_data(spec, inputs)._replace(sampler=problem.sampler)
    else:
        problem = task.build(spec)
    return _assemble(config, spec, problem, training=False)


def _assemble(config: ConfigDict, spec: RunSpec, problem: Problem, *, training: bool) -> Experiment:
    def adapts(path: str) -> bool:
        return spec.entry.adapts(path) and (spec.entry.norms_adapt or problem.adapts(path))

    gates = weights = None
    if spec.learns_lengths:
        settings = spec.lengths
        gates = Gates(settings.gate, settings.granularity, num_steps=spec.inner.num_steps)
    if spec.outer.objective == "multi_step":
        weights = multi_step_weights(spec.train_steps, spec.outer.multi_step_anneal)
    learned = LearnedSummary(spec, problem, adapts, gates)
    inner_loop = _make_inner_loop(spec, problem, learned)
    at_test = with_later_step_sizes(inner_loop, spec.eval.later_step_sizes)
    outer, fields = make_outer_step(spec, gates)
    sampler = None
    if training and problem.host_episodes is None:
        sampler = problem.sampler(spec.task.shots, spec.task.query_shots, "train")
    train_step = TrainStep(
        sampler,
        Objective(
            inner_loop(spec.train_steps),
            problem.query_loss or problem.loss,
            step_weights=weights,
            lengths=None if gates is None else _learned_lengths(spec, gates, learned),
        ),
        outer,
        prepare=problem.prepare,
        tasks_per_chunk=spec.tasks_per_chunk or fastest_chunk(spec),
        task_clip_norm=spec.outer.task_clip_norm or None,
        record=problem.record and weights is None,
        learned=fields,
    )
    experiment = Experiment(
        config,
        spec,
        problem,
        at_test,
        _make_init(spec, problem, learned, outer),
        _make_train_loop(spec, train_step, problem, learned, training=training),
        make_evaluate(spec, problem, at_test(spec.eval.num_steps), gates),
        make_ensemble_evaluation(spec, problem, at_test(spec.eval.num_steps)),
        learned,
        lambda meta_params: (experiment, meta_params),
    )
    if problem.ways in (0, spec.eval.ways):
        return experiment
    return _with_test_ways(experiment)


def _with_test_ways(trained: Experiment) -> Experiment:
    """Evaluates with outputs for eval.ways."""
    test = for_ways(trained, trained.spec.eval.ways)

    def at_test(meta_params: MetaParams) -> tuple[Experiment, MetaParams]:
        return test, with_ways(meta_params, trained, test)

    def evaluate(meta_params: MetaParams, stream: str = "test", **how: Any) -> Evaluation:
        return test.evaluate(at_test(meta_params)[1], stream, **how)

    def together(members: Sequence[MetaParams]) -> Evaluation:
        return test.evaluate_ensemble([at_test(of)[1] for of in members])

    template = jax.eval_shape(trained.init).meta_params  # tells at once what does not fit
    jax.eval_shape(lambda meta_params: at_test(meta_params)[1], template)
    return trained._replace(evaluate=evaluate, evaluate_ensemble=together, at_test=at_test)


def optimizer_flops(config: ConfigDict) -> float:
    """FLOPs of the inner optimizer's own matrix products in a full step, a part of C."""
    return build(config, training=False).learned.optimizer_flops
