"""The training loop of a run: dispatches, logs, checkpoints, resume, stop and evaluation."""

import os
import pathlib
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, Protocol

from ml_collections import ConfigDict
from tqdm import tqdm

from maml_jax.errors import DivergedError
from maml_jax.parallel.hosts import in_any_process, is_writer
from maml_jax.run import files, provenance
from maml_jax.run.build import Experiment, build
from maml_jax.run.checkpoint import has_checkpoint
from maml_jax.run.config import baseline_config
from maml_jax.run.episode_table import EpisodeTable
from maml_jax.run.files import Record
from maml_jax.run.formats import plural, short_name
from maml_jax.run.loading import load
from maml_jax.run.lock import locked
from maml_jax.run.messages import note
from maml_jax.run.metrics import read_metrics
from maml_jax.run.pruning import schedule_maker
from maml_jax.run.spec import RunSpec
from maml_jax.run.tracking import RunInTraining, or_rewards
from maml_jax.run.warm_start import start_from
from maml_jax.run.workdir import (
    CHECKPOINTS,
    MakeSchedule,
    evaluate_both,
    load_run,
    open_workdir,
    write_evaluation,
    write_inputs,
)
from maml_jax.types import Metrics, TrainState


class Interrupted(Exception):  # noqa: N818 - not an error
    """The run was asked to stop and has saved its state; `code` is the exit status to end with."""

    def __init__(self, where: str, code: int) -> None:
        """Says where, as "at meta-step 20"."""
        super().__init__(f"stopped {where}; the same command resumes from there")
        self.code = code


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT, so that a dispatch can end; a second one ends at once."""
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        if received:
            signal.signal(number, before[signal.Signals(number)])
            signal.raise_signal(number)
        received.append(number)
        with suppress(OSError, RuntimeError):  # it may come amid another line
            print("\nStopping after this dispatch (once more to end at once) ...", file=sys.stderr)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _next_stop(step: int, spec: RunSpec) -> int:
    """The meta-step at which the next dispatch ends.

    It is a multiple of steps_per_dispatch wherever a run resumes, or the end of a phase.
    """
    every, phases = spec.steps_per_dispatch, (spec.inner.first_order_until, spec.freeze_step)
    ends = ((step // every + 1) * every, spec.num_meta_steps, *phases)
    return min(end for end in ends if end > step)


class States(Protocol):
    """The states of runs that are trained together."""

    def advance(self, active: Sequence[int], step: int, number: int, /) -> Sequence[Metrics]:
        """Trains the active runs, which are at `step`, and returns metrics for every run."""

    def of(self, index: int, /) -> TrainState:
        """The state of one run."""


class _One:
    """The state of a single run."""

    def __init__(self, experiment: Experiment, state: TrainState) -> None:
        self._experiment = experiment
        self._state = state

    def advance(self, active: Sequence[int], step: int, number: int) -> Sequence[Metrics]:
        """Trains the active runs."""
        del active, step
        self._state, metrics = self._experiment.train(self._state, number)
        return [metrics]

    def of(self, index: int) -> TrainState:
        """The state of one run."""
        del index
        return self._state


def train(
    experiment: Experiment, workdir: pathlib.Path, first: TrainState | None = None
) -> TrainState:
    """Trains, or resumes, to the last meta-step.

    Args:
      experiment: the run's functions.
      workdir: the folder of its files.
      first: the state that a new run starts from; None takes the initial one.

    Raises:
      Interrupted: SIGTERM or Ctrl-C; the state is saved.
      DivergedError: more than outer.max_nonfinite updates were skipped, or all; the last good state
        is saved.
      UsageError: a file of the run cannot be read or written.
    """
    run = RunInTraining(experiment, workdir, first)
    states = _One(experiment, run.first)
    train_together([run], states)
    if run.failure is not None:
        raise run.failure
    return states.of(0)


def train_together(runs: Sequence[RunInTraining], states: States) -> None:
    """Trains runs of one program to their last meta-step, those that are behind first.

    A run that diverges is marked as failed and left out; the others go on.

    Raises:
      Interrupted: SIGTERM or Ctrl-C; all states are saved.
      UsageError: a file of a run cannot be written.
    """
    spec, total = runs[0].spec, sum(run.spec.num_meta_steps for run in runs)
    name = short_name(runs[0].workdir) if len(runs) == 1 else f"{len(runs)} runs"
    with ExitStack() as open_files, stop_requests() as received:
        for run in runs:
            open_files.enter_context(closing(run))
        left = [index for index, run in enumerate(runs) if not run.ended]
        if left:
            note("compiling (once) ...")
        started = sum(run.step for run in runs)
        bar = tqdm(
            total=total, initial=started, unit=" meta-steps", desc=name, disable=not is_writer()
        )
        open_files.enter_context(closing(bar))
        compiled = False
        while left:
            step = min(runs[index].step for index in left)
            active = [index for index in left if runs[index].step == step]
            ahead = [runs[index].step for index in left if runs[index].step > step]
            stop = min([_next_stop(step, spec), *ahead])
            metrics = states.advance(active, step, stop - step)
            stopping = in_any_process(bool(received))
            for index in active:
                run = runs[index]
                try:
                    run.reach(stop, metrics[index], partial(states.of, index), save=stopping)
                except DivergedError as error:
                    run.failure = error
                    if len(runs) > 1:
                        note(f"{run.workdir}: {error}. The other runs go on")
            if compiled:
                bar.update((stop - step) * len(active))
            else:  # the time to compile says nothing of the time that is left
                bar.unpause()
                bar.n += (stop - step) * len(active)
                bar.initial = bar.last_print_n = bar.n
                compiled = True
            bar.set_postfix(loss=f"{float(metrics[active[0]]['loss']):.4g}")
            left = [index for index in left if not runs[index].ended]
            if stopping:
                number = received[0] if received else signal.SIGTERM
                raise Interrupted(f"at meta-step {stop}", 128 + number)
    for index, run in enumerate(runs):
        run.failure = run.failure or _unmoved(states.of(index), run.spec)


def _unmoved(state: TrainState, spec: RunSpec) -> DivergedError | None:
    skipped = int(state.skipped)
    if not skipped or skipped < int(state.step):
        return None
    return DivergedError(
        f"none of the {skipped} updates was finite: the parameters are the initial ones. "
        f"Lower inner.step_size or outer.learning_rate{or_rewards(spec)}, and use another "
        "--workdir"
    )


def evaluate_run(
    workdir: str | os.PathLike[str],
    overrides: dict[str, Any],
    output: str | os.PathLike[str] | None = None,
    schedule: str = "compiled",
) -> Record:
    """Evaluates the newest and the validation-selected state of a run.

    Args:
      workdir: folder of the run, into which nothing is written.
      overrides: values that replace those of the config's `eval` section.
      output: FILE.csv or FILE.json for the values of every test episode; None writes nothing.
      schedule: the inner loop of learned lengths, `compiled`, `pruned` or `masked`.

    Raises:
      UsageError: there is no run, an override is not allowed, or the file cannot be written.
    """
    folder = files.local_folder(workdir)
    table = None if output is None else EpisodeTable(files.local_folder(output))
    experiment, state = load_run(folder, overrides)
    _announce_evaluation(experiment.spec)
    make_schedule = schedule_maker(schedule, folder, int(state.step))
    evaluated = evaluate_both(experiment, state, folder, make_schedule)
    record = evaluated.record | provenance.describe()
    if experiment.learned.gates is not None:
        record["schedule"] = schedule
    if table is not None:
        table.write(record, evaluated.episodes, experiment.problem.diverged)
    return record


def _announce_evaluation(spec: RunSpec) -> None:
    note(f"evaluating on {plural(spec.eval.num_episodes, 'test episode')}; compiling (once) ...")


def _total(workdir: pathlib.Path, name: str) -> float:
    return sum(float(line.get(name) or 0.0) for line in read_metrics(workdir))


def train_and_evaluate(
    config: ConfigDict, workdir: str | os.PathLike[str], *, baselines: bool = True
) -> Record:
    """Trains or resumes a run and its baselines, and evaluates them on held-out episodes.

    Args:
      config: see `maml_jax.run.config.default_config`.
      workdir: folder of this run; holds config.json, checkpoints, metrics.jsonl, TensorBoard
        events and, at the end, evaluation.json. Baselines are runs in folders below it. One
        process at a time can write it.
      baselines: False leaves the baselines out.

    Returns:
      The record that is also in evaluation.json.

    Raises:
      UsageError: a value, a folder or a checkpoint cannot be used; nothing is overwritten.
      Interrupted: SIGTERM or Ctrl-C; the state is saved.
    """
    folder = files.local_folder(workdir)
    experiment = build(config)
    config = experiment.config
    first = other_start(experiment, folder)
    with locked(folder):
        prepare(experiment, folder)
        state = train(experiment, folder, first)
        _announce_evaluation(experiment.spec)
        record = finish(experiment, folder, state)
    if not baselines:
        return record
    if config.baselines:
        names = f"{plural(len(config.baselines), 'baseline')}: {', '.join(config.baselines)}"
        note(f"also training {names}")
    for name in config.baselines:
        train_and_evaluate(baseline_config(config, name), folder / name)
    return record


def other_start(experiment: Experiment, folder: pathlib.Path) -> TrainState | None:
    """The state that a new run starts from if it is not its own, that of `init_from`.

    Raises:
      UsageError: there is no such model, or it does not fit; nothing is written.
    """
    if not experiment.config.init_from or has_checkpoint(folder / CHECKPOINTS):
        return None
    return start_from(load(experiment.config.init_from), experiment)


def prepare(experiment: Experiment, folder: pathlib.Path) -> None:
    """Opens the workdir of a run.

    Raises:
      UsageError: the folder cannot be used; nothing is overwritten.
    """
    open_workdir(experiment.config, folder)
    write_inputs(experiment.problem.inputs, folder)
    provenance.note_command(folder)


def finish(
    experiment: Experiment,
    folder: pathlib.Path,
    state: TrainState,
    make_schedule: MakeSchedule | None = None,
    **about: Any,
) -> Record:
    """Evaluates a trained run and writes its evaluation, with `about` in it."""
    started = time.perf_counter()
    evaluated = evaluate_both(experiment, state, folder, make_schedule)
    record = evaluated.record | {
        "train_seconds": round(_total(folder, "seconds"), 1),
        "nonfinite_tasks": round(_total(folder, "nonfinite_tasks")),  # dropped in training
        "evaluate_seconds": round(time.perf_counter() - started, 1),
        **about,
        **provenance.describe(),
        "command": " && ".join(provenance.commands(folder)),
    }
    write_evaluation(folder, record)
    return record
