"""From a config to functions: the state, the train loop and the evaluation of one run."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from maml_jax.inner.adapt import InnerLoop
from maml_jax.inner.step_sizes import STEP_SIZES
from maml_jax.keys import stream_key
from maml_jax.lengths.gates import Gates
from maml_jax.meta.outer import OuterStep
from maml_jax.meta.train_step import init_state
from maml_jax.parallel import cores_that_divide, use_cpu_devices
from maml_jax.run.config import completed, resolve
from maml_jax.run.ensemble import EvaluateEnsembleFn, make_ensemble_evaluation
from maml_jax.run.evaluation import (
    EvaluateFn,
    Evaluation,
    Programs,
    first_step_size,
    make_evaluate,
    with_later_step_sizes,
)
from maml_jax.run.learned import LearnedSummary
from maml_jax.run.problems import TASKS, Inputs, Problem
from maml_jax.run.spec import RunSpec
from maml_jax.run.training import make_inner_loop, make_run_loop, make_train_step, one_by_one
from maml_jax.run.ways import with_ways
from maml_jax.types import MetaParams, PyTree, TrainLoop, TrainState


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
    programs: Programs  # of evaluations


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
        cores = cores_that_divide(spec.meta_batch_size) if one_by_one(spec) else 1
        use_cpu_devices(spec.cpu_devices or cores)
    task = TASKS[spec.task.name]
    if inputs is not None and task.without_data is not None:
        problem = task.without_data(spec, inputs)
    else:
        problem = task.build(spec)
    return _assemble(config, spec, problem, {}, training=training)


def build_alike(experiment: Experiment, config: ConfigDict) -> Experiment:
    """The functions of a run whose tasks, network and program are those of another one."""
    spec, programs = resolve(config), experiment.programs
    return _assemble(completed(config), spec, experiment.problem, programs, training=False)


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
    return _assemble(config, spec, problem, experiment.programs, training=False)


def _assemble(
    config: ConfigDict, spec: RunSpec, problem: Problem, programs: Programs, *, training: bool
) -> Experiment:
    def adapts(path: str) -> bool:
        return spec.entry.adapts(path) and (spec.entry.norms_adapt or problem.adapts(path))

    gates = None
    if spec.learns_lengths:
        settings = spec.lengths
        gates = Gates(settings.gate, settings.granularity, num_steps=spec.inner.num_steps)
    learned = LearnedSummary(spec, problem, adapts, gates)
    inner_loop = make_inner_loop(spec, problem, learned)
    at_test = with_later_step_sizes(inner_loop, spec.eval.later_step_sizes)
    train_step = make_train_step(spec, problem, learned, training=training)
    experiment = Experiment(
        config,
        spec,
        problem,
        at_test,
        _make_init(spec, problem, learned, train_step.outer),
        make_run_loop(spec, train_step, problem, learned, training=training),
        make_evaluate(spec, problem, at_test(spec.eval.num_steps), gates, programs),
        make_ensemble_evaluation(spec, problem, at_test(spec.eval.num_steps)),
        learned,
        lambda meta_params: (experiment, meta_params),
        programs,
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
