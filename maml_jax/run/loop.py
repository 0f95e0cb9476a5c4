"""The training loop of a run: dispatches, logs, checkpoints, resume, stop and evaluation."""

import math
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any

from ml_collections import ConfigDict

from maml_jax.errors import DivergedError
from maml_jax.run import files, provenance
from maml_jax.run.build import Experiment, build
from maml_jax.run.checkpoint import Checkpoints, has_checkpoint
from maml_jax.run.config import baseline_config
from maml_jax.run.ensemble import Members
from maml_jax.run.episode_table import EpisodeTable
from maml_jax.run.files import Record
from maml_jax.run.formats import plural
from maml_jax.run.loading import load
from maml_jax.run.messages import note
from maml_jax.run.metrics import read_metrics
from maml_jax.run.progress import Progress, crossed
from maml_jax.run.pruning import schedule_maker
from maml_jax.run.spec import RunSpec
from maml_jax.run.warm_start import start_from
from maml_jax.run.workdir import (
    BEST,
    CHECKPOINTS,
    as_json,
    evaluate_both,
    load_run,
    open_workdir,
    write_evaluation,
    write_inputs,
)
from maml_jax.types import TrainState


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


class _Selection:
    """Keeps the parameters with the best validation so far, in workdir/best_checkpoints.

    Attributes:
      step: the meta-step of these parameters; None as long as there are none.
    """

    def __init__(self, experiment: Experiment, workdir: pathlib.Path, state: TrainState) -> None:
        """Goes on from what a run has kept that is at `state`.

        Raises:
          UsageError: what it has kept cannot be read.
        """
        self._experiment = experiment
        config = as_json(experiment.config)
        self._checkpoints = Checkpoints(workdir / BEST, config, keep=1)
        self._members = Members(workdir, state, config, experiment.spec.eval.ensemble)
        best = self._checkpoints.restore(state)
        self.step = None if best is None else int(best.state.step)
        self._best = -math.inf
        if best is not None:
            self._best = best.about.get("score", _logged_best(workdir, int(state.step)))

    def validate(self, state: TrainState, progress: Progress) -> None:
        """Scores the state by accuracy after the last inner step, or by −loss without accuracy."""
        evaluation = self._experiment.evaluate(state.meta_params, "validation")
        last = {name: float(est.finite_mean[-1]) for name, est in evaluation.estimates.items()}
        score = last.get("accuracy", -last["loss"])
        values = {f"validation_{name}": value for name, value in last.items()}
        values["validation_loss_median"] = float(evaluation.estimates["loss"].median[-1])
        values |= {"validation_score": score, "validation_nonfinite": evaluation.counts.not_finite}
        progress.write_validation(int(state.step), values)
        if score > self._best:
            self._best, self.step = score, int(state.step)
            self._checkpoints.save(state, score=score)
        self._members.add(state, score)

    def wait(self) -> None:
        """Waits until the parameters are written."""
        self._checkpoints.wait()
        self._members.wait()

    def close(self) -> None:
        """Waits until the parameters are written, and ends the threads that write."""
        self._checkpoints.close()
        self._members.close()


def _logged_best(workdir: pathlib.Path, step: int) -> float:
    """The best score up to a step, of a run that did not keep it beside the parameters."""
    scores = [
        line.get("validation_score") for line in read_metrics(workdir) if line["step"] <= step
    ]
    return max((score for score in scores if score is not None), default=-math.inf)


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
    spec = experiment.spec
    checkpoints = Checkpoints(
        workdir / CHECKPOINTS, as_json(experiment.config), spec.checkpoint.keep
    )
    state, about = first or experiment.init(), Record()
    restored = checkpoints.restore(state)
    if restored is not None:
        state, about = restored.state, restored.about
        note(f"resuming from meta-step {int(state.step)} of {spec.num_meta_steps}")
    selection = _Selection(experiment, workdir, state)
    progress = Progress(spec, workdir, int(state.step), about.get("log"))
    if (selection.step or 0) < (about.get("best_step") or 0):
        note(f"{BEST} lacks the best parameters before the checkpoint; going on without them")

    def save(state: TrainState) -> None:
        selection.wait()  # the best parameters are on the disk before a checkpoint counts on them
        checkpoints.save(state, log=progress.packed_log(), best_step=selection.step)

    with closing(checkpoints), closing(selection), closing(progress), stop_requests() as received:
        step = int(state.step)
        if step < spec.num_meta_steps:
            note("compiling (once) ...")
        while step < spec.num_meta_steps:
            stop = _next_stop(step, spec)
            state, metrics = experiment.train(state, stop - step)
            progress.update(stop, metrics, partial(experiment.learned.summary, state.meta_params))
            _check_finite(state, spec, save)
            done = stop == spec.num_meta_steps
            every = spec.eval.validation_every
            if every and (done or crossed(step, stop, every)):
                selection.validate(state, progress)
            if received or done or crossed(step, stop, spec.checkpoint.every):
                save(state)
            if received:
                raise Interrupted(f"at meta-step {stop}", 128 + received[0])
            step = stop
    _check_moved(state, spec)
    return state


def _check_finite(state: TrainState, spec: RunSpec, save: Callable[[TrainState], None]) -> None:
    skipped = int(state.skipped)
    if skipped > spec.outer.max_nonfinite:
        save(state)
        raise DivergedError(
            f"{skipped} updates were not finite by meta-step {int(state.step)}, more than "
            f"outer.max_nonfinite={spec.outer.max_nonfinite}; the last good state is saved. "
            f"Lower inner.step_size or outer.learning_rate{_or_rewards(spec)}"
        )


def _or_rewards(spec: RunSpec) -> str:
    """What else may be wrong in reinforcement learning."""
    if spec.task.name != "rl":
        return ""
    name = spec.own["rl"].environment
    return f", or see with maml_jax.rl.testing.check_environment({name!r}) if rewards are finite"


def _check_moved(state: TrainState, spec: RunSpec) -> None:
    skipped = int(state.skipped)
    if skipped and skipped == int(state.step):
        raise DivergedError(
            f"none of the {skipped} updates was finite: the parameters are the initial ones. "
            f"Lower inner.step_size or outer.learning_rate{_or_rewards(spec)}, and use another "
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


def train_and_evaluate(config: ConfigDict, workdir: str | os.PathLike[str]) -> Record:
    """Trains or resumes a run and its baselines, and evaluates them on held-out episodes.

    Args:
      config: see `maml_jax.run.config.default_config`.
      workdir: folder of this run; holds config.json, checkpoints, metrics.jsonl, TensorBoard
        events and, at the end, evaluation.json. Baselines are runs in folders below it. One
        process at a time can write it.

    Returns:
      The record that is also in evaluation.json.

    Raises:
      UsageError: a value, a folder or a checkpoint cannot be used; nothing is overwritten.
      Interrupted: SIGTERM or Ctrl-C; the state is saved.
    """
    folder = files.local_folder(workdir)
    experiment, first = build(config), None
    config = experiment.config
    if config.init_from and not has_checkpoint(folder / CHECKPOINTS):
        first = start_from(load(config.init_from), experiment)
    with files.locked(folder):
        open_workdir(config, folder)
        write_inputs(experiment.problem.inputs, folder)
        state = train(experiment, folder, first)
        started = time.perf_counter()
        _announce_evaluation(experiment.spec)
        record = evaluate_both(experiment, state, folder).record | {
            "train_seconds": round(_total(folder, "seconds"), 1),
            "nonfinite_tasks": round(_total(folder, "nonfinite_tasks")),  # dropped in training
            "evaluate_seconds": round(time.perf_counter() - started, 1),
            **provenance.describe(),
        }
        write_evaluation(folder, record)
    if config.baselines:
        names = f"{plural(len(config.baselines), 'baseline')}: {', '.join(config.baselines)}"
        note(f"also training {names}")
    for name in config.baselines:
        train_and_evaluate(baseline_config(config, name), folder / name)
    return record
