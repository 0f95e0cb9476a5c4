"""The training of a run: its inner loop, its train step and its train loop."""

import dataclasses
from collections.abc import Callable
from functools import cache

import jax
import optax

from maml_jax.inner.adapt import InnerLoop
from maml_jax.inner.meta_gradients import META_GRADIENTS, implicit
from maml_jax.inner.optimizers.clipping import clip_by_norm
from maml_jax.inner.step_sizes import STEP_SIZES
from maml_jax.keys import stream_key
from maml_jax.lengths.cost import Budget, LearnedLengths, annealed, compute_cost, mean_length_cost
from maml_jax.lengths.gates import Gates, always_on
from maml_jax.lengths.schedule import Schedule
from maml_jax.meta.objective import Objective, multi_step_weights
from maml_jax.meta.population import Population, make_population_step
from maml_jax.meta.train_step import TrainStep, with_constant_lengths
from maml_jax.parallel import PopulationLoop, local_tasks, make_population_loop, make_train_loop
from maml_jax.run.learned import LearnedSummary
from maml_jax.run.outer import make_outer_step, unless_zero
from maml_jax.run.problems import Problem
from maml_jax.run.spec import RunSpec
from maml_jax.tasks.host import HostFeed
from maml_jax.types import MakeOptimizer, Metrics, PyTree, TrainLoop, TrainState


def one_by_one(spec: RunSpec) -> bool:
    """Whether a CPU core is fastest with one task at a time: networks of images."""
    return spec.task.name == "images"


def fastest_chunk(spec: RunSpec) -> int | None:
    """How many tasks at once are fastest on the backend; None: all."""
    return 1 if one_by_one(spec) and jax.default_backend() == "cpu" else None


def _learned_lengths(spec: RunSpec, gates: Gates, learned: LearnedSummary) -> LearnedLengths:
    """Cost and temperature of learned lengths."""
    settings = spec.lengths
    if settings.cost == "compute":
        cost = compute_cost(gates, learned.adapted, learned.costs)
    else:
        cost = mean_length_cost(gates, learned.adapted)
    temperature = annealed(settings.temperature, settings.final_temperature, spec.num_meta_steps)
    budget = Budget(settings.cost_weight, unless_zero(settings.budget), settings.dual_rate)
    return LearnedLengths(gates, temperature, cost, budget)


def make_inner_loop(
    spec: RunSpec, problem: Problem, learned: LearnedSummary
) -> Callable[[int], InnerLoop]:
    """Number of steps -> inner loop, with hard gates."""
    inner, gates = spec.inner, learned.gates
    estimator = META_GRADIENTS[inner.meta_gradient]

    def make_optimizer(num_steps: int) -> MakeOptimizer:
        make = learned.make_optimizer(num_steps)
        clip_norm = unless_zero(inner.clip_norm)
        if clip_norm is None:
            return make
        return lambda hyper: optax.chain(clip_by_norm(clip_norm), make(hyper))

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


def make_train_step(
    spec: RunSpec, problem: Problem, learned: LearnedSummary, *, training: bool = True
) -> TrainStep:
    """The meta-step of a run; the numbers of its spec may be arrays of a trace."""
    gates, weights = learned.gates, None
    if spec.outer.objective == "multi_step":
        weights = multi_step_weights(spec.train_steps, spec.outer.multi_step_anneal)
    outer, fields = make_outer_step(spec, gates)
    sampler = None
    if training and problem.host_episodes is None:
        sampler = problem.sampler(spec.task.shots, spec.task.query_shots, "train")
    return TrainStep(
        sampler,
        Objective(
            make_inner_loop(spec, problem, learned)(spec.train_steps),
            problem.query_loss or problem.loss,
            step_weights=weights,
            lengths=None if gates is None else _learned_lengths(spec, gates, learned),
        ),
        outer,
        prepare=problem.prepare,
        tasks_per_chunk=spec.tasks_per_chunk or fastest_chunk(spec),
        task_clip_norm=unless_zero(spec.outer.task_clip_norm),
        record=problem.record and weights is None,
        learned=fields,
    )


def _in_phase(train_step: TrainStep, first: bool, schedule: Schedule | None) -> TrainStep:
    """The meta-step with first-order meta-gradients, or compiled for a schedule."""
    objective = train_step.objective
    assert isinstance(objective, Objective)
    loop = dataclasses.replace(objective.inner_loop, schedule=schedule)
    if first:
        loop = dataclasses.replace(loop, meta_gradient="first_order")
    step = dataclasses.replace(
        train_step, objective=dataclasses.replace(objective, inner_loop=loop)
    )
    return step if schedule is None else with_constant_lengths(step)


def make_run_loop(
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
    if problem.host_episodes is not None and training:
        tasks = local_tasks(spec.meta_batch_size)
        feed = HostFeed(problem.host_episodes(stream_key(spec.seed, "train"), tasks))
    freezes = spec.learns_lengths

    @cache
    def phase(first: bool, schedule: Schedule | None) -> TrainLoop:
        step = _in_phase(train_step, first, schedule)
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


def make_joint_loop(
    spec: RunSpec,
    make_step: Callable[[PyTree], TrainStep],
    members_per_chunk: int | None,
) -> Callable[[Population, int, int], tuple[Population, Metrics]]:
    """The train loop of a population: (population, meta-step, number) -> (population, metrics)."""

    @cache
    def phase(first: bool) -> PopulationLoop:
        step = make_population_step(
            lambda values: _in_phase(make_step(values), first, None),
            members_per_chunk=members_per_chunk,
        )
        return make_population_loop(step, meta_batch_size=spec.meta_batch_size)

    def train(population: Population, step: int, number: int) -> tuple[Population, Metrics]:
        return phase(step < spec.inner.first_order_until)(population, number)

    phase(False)  # tells at once what the devices do not allow
    return train
