"""Runs that share one program, trained together as a population.

Runs share a program if their configs differ in nothing but the seed and in numbers that the program
takes as arrays. Each keeps a workdir of its own, as if it had been trained alone.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from maml_jax.errors import UsageError
from maml_jax.inner.meta_gradients import META_GRADIENTS
from maml_jax.meta.population import Population, member, stack
from maml_jax.parallel import cores_that_divide, use_cpu_devices
from maml_jax.run.build import Experiment, build, build_alike
from maml_jax.run.config import resolve
from maml_jax.run.files import Record
from maml_jax.run.formats import plural
from maml_jax.run.lock import locked
from maml_jax.run.loop import finish, other_start, prepare, train_and_evaluate, train_together
from maml_jax.run.messages import note
from maml_jax.run.spec import RunSpec
from maml_jax.run.tracking import RunInTraining
from maml_jax.run.training import make_joint_loop, make_train_step
from maml_jax.types import Array, Metrics, TrainState

# Numbers that decide the first state alone.
INITIAL = (
    "seed",
    "inner.step_size",
    "inner.momentum",
    "inner.inverse_condition",
    "lengths.initial_length",
)
# Numbers that the meta-step takes as arrays. Whether they are 0 may decide what it computes.
NUMBERS = (
    "inner.clip_norm",
    "lengths.temperature",
    "lengths.final_temperature",
    "lengths.cost_weight",
    "lengths.budget",
    "lengths.dual_rate",
    "outer.learning_rate",
    "outer.lengths_learning_rate",
    "outer.lengths_from",
    "outer.step_sizes_learning_rate",
    "outer.optimizer_learning_rate",
    "outer.weight_decay",
    "outer.clip",
    "outer.clip_norm",
    "outer.task_clip_norm",
)
# Keys that do not matter to the training of one run beside others.
_APART = {"baselines": (), "init_from": ""}


class Run(NamedTuple):
    """A run to train."""

    config: ConfigDict
    workdir: pathlib.Path


def _value(spec: RunSpec, key: str) -> Any:
    section, _, name = key.rpartition(".")
    return getattr(getattr(spec, section) if section else spec, name)


def with_values(spec: RunSpec, values: Mapping[str, Any]) -> RunSpec:
    """The spec with other values of some keys, which may be arrays of a trace."""
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        if section:
            value = dataclasses.replace(getattr(spec, section), **{name: value})
        spec = dataclasses.replace(spec, **{section or name: value})
    return spec


def program_of(config: ConfigDict) -> str:
    """What has to be equal in two configs for their runs to share a program.

    Raises:
      UsageError: the config is wrong.
    """
    spec = resolve(config)
    values = dict.fromkeys(INITIAL, 0) | {key: bool(_value(spec, key)) for key in NUMBERS}
    if not META_GRADIENTS[spec.inner.meta_gradient].needs_proximal:
        values["inner.proximal"] = 0
    return repr(with_values(spec, values | _APART))


def trains_alone(config: ConfigDict) -> bool:
    """Whether a run has a program or data that no other run can share."""
    spec = resolve(config)
    compiles = spec.learns_lengths and spec.freeze_step < spec.num_meta_steps
    return compiles or (spec.task.name == "images" and spec.data.pool == "host")


def grouped(configs: Sequence[ConfigDict]) -> list[list[int]]:
    """Indices of the runs of each program, in the order in which programs first appear."""
    groups: dict[str, list[int]] = {}
    for index, config in enumerate(configs):
        alone = f"{index}: " if trains_alone(config) else ""
        groups.setdefault(alone + program_of(config), []).append(index)
    return list(groups.values())


def _fastest_chunk() -> int | None:
    """How many members at once are fastest on the backend; None: all."""
    return 1 if jax.default_backend() == "cpu" else None


class _Members:
    """The states of a population, for the training loop."""

    def __init__(self, experiments: Sequence[Experiment], states: Sequence[TrainState]) -> None:
        first = experiments[0]
        specs = [experiment.spec for experiment in experiments]
        values = {
            key: jnp.asarray([_value(spec, key) for spec in specs], type(_value(RunSpec(), key)))
            for key in NUMBERS
            if len({_value(spec, key) for spec in specs}) > 1
        }
        self._population = Population(stack(states), values)
        self._member = jax.jit(member)

        def make_step(values: Mapping[str, Array]) -> Any:
            return make_train_step(with_values(first.spec, values), first.problem, first.learned)

        self._train = make_joint_loop(first.spec, make_step, _fastest_chunk())

    def advance(self, active: Sequence[int], step: int, number: int) -> Sequence[Metrics]:
        """Trains the active runs."""
        size = len(self._population.states.step)
        mask = jnp.array([index in active for index in range(size)])
        population = self._population._replace(active=mask)
        self._population, metrics = self._train(population, step, number)
        on_host = jax.device_get(metrics)
        return [{name: of[index] for name, of in on_host.items()} for index in range(size)]

    def of(self, index: int) -> TrainState:
        """The state of one run."""
        state: TrainState = self._member(self._population.states, index)
        return state


def train_population(runs: Sequence[Run]) -> list[Record | UsageError]:
    """Trains runs of one program together and evaluates each; resumes those that were stopped.

    Every run leaves the workdir that `train_and_evaluate` would leave, but for baselines, which are
    runs of their own. The time of training is shared evenly in its metrics.

    Args:
      runs: whose configs have the same `program_of`.

    Returns:
      For each run its evaluation, or why it failed; the others are finished.

    Raises:
      Interrupted: SIGTERM or Ctrl-C; all states are saved.
    """
    if len(runs) == 1:
        return [_finished(partial(train_and_evaluate, *runs[0], baselines=False))]
    results: dict[int, Record | UsageError] = {}
    spec = resolve(runs[0].config)
    shares = map(cores_that_divide, (len(runs), spec.meta_batch_size))
    use_cpu_devices(spec.cpu_devices or max(shares))
    with ExitStack() as locks:
        first = build(runs[0].config, training=False)  # alone, its tasks might not divide
        experiments = [first, *(build_alike(first, run.config) for run in runs[1:])]
        opened: dict[int, RunInTraining] = {}
        for index, (experiment, run) in enumerate(zip(experiments, runs, strict=True)):
            try:
                start = other_start(experiment, run.workdir)
                locks.enter_context(locked(run.workdir))
                prepare(experiment, run.workdir)
                opened[index] = RunInTraining(experiment, run.workdir, start, len(runs))
            except UsageError as error:
                results[index] = error
        if opened:
            joint = _Members([experiments[i] for i in opened], [of.first for of in opened.values()])
            train_together(list(opened.values()), joint)
        note(f"evaluating {plural(len(opened), 'run')}; compiling (once) ...")
        for place, (index, of) in enumerate(opened.items()):
            results[index] = of.failure or _finished(
                partial(
                    finish, experiments[index], of.workdir, joint.of(place), _masked,
                    population=len(opened),
                )
            )  # fmt: skip
    return [results[index] for index in range(len(runs))]


def _masked(state: TrainState) -> None:
    """No schedule: all members then share one compiled evaluation."""
    del state


def _finished(evaluate: Callable[[], Record]) -> Record | UsageError:
    try:
        return evaluate()
    except UsageError as error:
        return error
