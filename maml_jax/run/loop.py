"""The training loop of a run: dispatches, logs, checkpoints, resume, stop and evaluation."""

import math
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

from ml_collections import ConfigDict
from tqdm import tqdm

from maml_jax.errors import DivergedError
from maml_jax.parallel import COUNTS
from maml_jax.run import provenance
from maml_jax.run.build import Experiment, build
from maml_jax.run.checkpoint import Checkpoints
from maml_jax.run.config import baseline_config
from maml_jax.run.metrics import MetricWriter, read_metrics
from maml_jax.run.spec import RunSpec
from maml_jax.run.workdir import (
    BEST,
    evaluate_both,
    load_run,
    open_workdir,
    write_evaluation,
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
            raise KeyboardInterrupt
        received.append(number)
        print("\nStopping after this dispatch (once more to end at once) ...", file=sys.stderr)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _next_stop(step: int, spec: RunSpec) -> int:
    """The meta-step at which the next dispatch ends.

    It is a multiple of steps_per_dispatch wherever a run resumes, or the end of the first-order
    phase, because a dispatch belongs to one phase.
    """
    every, phase = spec.steps_per_dispatch, spec.inner.first_order_until
    stop = min((step // every + 1) * every, spec.num_meta_steps)
    return min(stop, phase) if step < phase else stop


def _crossed(before: int, after: int, every: int) -> bool:
    return before // every != after // every


class _Progress:
    """The progress bar, and the log: means of metrics and sums of counts over log_every steps."""

    def __init__(self, spec: RunSpec, workdir: pathlib.Path, step: int) -> None:
        self._spec = spec
        self._step = step
        self._writer = MetricWriter(workdir, step)
        self._bar = tqdm(
            total=spec.num_meta_steps, initial=step, unit=" meta-steps", desc=workdir.name
        )
        self._start_interval()

    def _start_interval(self) -> None:
        self._started = time.perf_counter()
        self._sums: dict[str, float] = {}
        self._steps = 0

    def update(self, step: int, metrics: Metrics, summary: Callable[[], dict[str, float]]) -> None:
        """Adds the metrics of a dispatch; at the end of an interval writes them and a summary."""
        number = step - self._step
        for name, value in metrics.items():
            weight = 1 if name in COUNTS else number
            self._sums[name] = self._sums.get(name, 0.0) + weight * float(value)
        self._steps += number
        self._bar.update(number)
        self._bar.set_postfix(loss=f"{float(metrics['loss']):.4g}")
        last = step == self._spec.num_meta_steps
        if _crossed(self._step, step, self._spec.log_every) or last:
            self._write(step, summary())
        self._step = step

    def write_validation(self, step: int, values: dict[str, float]) -> None:
        """Logs a validation."""
        self._writer.write(step, values)

    def _write(self, step: int, summary: dict[str, float]) -> None:
        seconds = time.perf_counter() - self._started
        means = {n: v if n in COUNTS else v / self._steps for n, v in self._sums.items()}
        speed = {"seconds": seconds, "meta_steps_per_second": self._steps / seconds}
        self._writer.write(step, means | speed | summary)
        self._start_interval()

    def close(self) -> None:
        """Closes the bar and flushes the log."""
        self._bar.close()
        self._writer.close()


class _Selection:
    """Keeps the parameters with the best validation so far, in workdir/best_checkpoints."""

    def __init__(self, experiment: Experiment, workdir: pathlib.Path, step: int) -> None:
        self._experiment = experiment
        self._checkpoints = Checkpoints(workdir, keep=1, name=BEST)
        scores = [
            line["validation_score"]
            for line in read_metrics(workdir)
            if "validation_score" in line and line["step"] <= step
        ]
        self._best = max(scores, default=-math.inf)

    def validate(self, state: TrainState, progress: _Progress) -> None:
        """Scores the state by accuracy after the last inner step, or by −loss without accuracy."""
        evaluation = self._experiment.evaluate(state.meta_params, "validation")
        last = {name: float(est.mean[-1]) for name, est in evaluation.estimates.items()}
        score = last.get("accuracy", -last["loss"])
        values = {f"validation_{name}": value for name, value in last.items()}
        values["validation_loss_median"] = float(evaluation.estimates["loss"].median[-1])
        values |= {"validation_score": score, "validation_nonfinite": evaluation.nonfinite}
        progress.write_validation(int(state.step), values)
        if score > self._best:
            self._best = score
            self._checkpoints.save(state)

    def close(self) -> None:
        """Waits until checkpoints are written."""
        self._checkpoints.close()


def train(experiment: Experiment, workdir: pathlib.Path) -> TrainState:
    """Trains, or resumes, to the last meta-step.

    Raises:
      Interrupted: SIGTERM or Ctrl-C; the state is saved.
      DivergedError: more than outer.max_nonfinite updates were skipped; the last good state is
        saved.
    """
    spec = experiment.spec
    checkpoints = Checkpoints(workdir, spec.checkpoint.keep)
    state = experiment.init()
    restored = checkpoints.restore(state)
    if restored is not None:
        state = restored
        tqdm.write(
            f"resuming from meta-step {int(state.step)} of {spec.num_meta_steps}", sys.stderr
        )
    step = int(state.step)
    progress = _Progress(spec, workdir, step)
    selection = _Selection(experiment, workdir, step)
    try:
        with stop_requests() as received:
            while step < spec.num_meta_steps:
                stop = _next_stop(step, spec)
                state, metrics = experiment.train(state, stop - step)
                summary = partial(experiment.learned.summary, state.meta_params)
                progress.update(stop, metrics, summary)
                _check_finite(state, spec, checkpoints)
                done = stop == spec.num_meta_steps
                every = spec.eval.validation_every
                if every and (done or _crossed(step, stop, every)):
                    selection.validate(state, progress)
                if received or done or _crossed(step, stop, spec.checkpoint.every):
                    checkpoints.save(state)
                if received:
                    raise Interrupted(f"at meta-step {stop}", 128 + received[0])
                step = stop
    finally:
        progress.close()
        selection.close()
        checkpoints.close()
    return state


def _check_finite(state: TrainState, spec: RunSpec, checkpoints: Checkpoints) -> None:
    skipped = int(state.skipped)
    if skipped > spec.outer.max_nonfinite:
        checkpoints.save(state)
        raise DivergedError(
            f"{skipped} updates were not finite by meta-step {int(state.step)}, more than "
            f"outer.max_nonfinite={spec.outer.max_nonfinite}; the last good state is saved. "
            "Lower inner.step_size or outer.learning_rate"
        )


def evaluate_run(workdir: pathlib.Path, overrides: dict[str, Any]) -> dict[str, Any]:
    """Evaluates the newest and the validation-selected state of a run.

    Args:
      workdir: folder of the run.
      overrides: values that replace those of the config's `eval` section.
    """
    experiment, state = load_run(workdir, overrides)
    return evaluate_both(experiment, state, workdir) | provenance.describe()


def _total(workdir: pathlib.Path, name: str) -> float:
    return sum(float(line.get(name, 0.0)) for line in read_metrics(workdir))


def train_and_evaluate(config: ConfigDict, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Trains or resumes a run and its baselines, and evaluates them on held-out episodes.

    Args:
      config: see `maml_jax.run.config.default_config`.
      workdir: folder of this run; holds config.json, checkpoints, metrics.jsonl, TensorBoard
        events and, at the end, evaluation.json. Baselines are runs in folders below it.

    Returns:
      The record that is also in evaluation.json.

    Raises:
      UsageError: a value, a folder or a checkpoint cannot be used; nothing is overwritten.
      Interrupted: SIGTERM or Ctrl-C; the state is saved.
    """
    workdir = pathlib.Path(workdir)
    experiment = build(config)
    open_workdir(config, workdir)
    state = train(experiment, workdir)
    started = time.perf_counter()
    record = evaluate_both(experiment, state, workdir) | {
        "train_seconds": round(_total(workdir, "seconds"), 1),
        "nonfinite_tasks": round(_total(workdir, "nonfinite_tasks")),  # dropped in training
        "evaluate_seconds": round(time.perf_counter() - started, 1),
        **provenance.describe(),
    }
    write_evaluation(workdir, record)
    for name in config.baselines:
        train_and_evaluate(baseline_config(config, name), workdir / name)
    return record
