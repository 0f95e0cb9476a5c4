"""The driver of a run: dispatches, logs, checkpoints, resumes, stops and evaluates."""

import json
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

from maml_jax import provenance
from maml_jax.checkpoint import Checkpoints
from maml_jax.config import default_config, differences, flatten, reference_config
from maml_jax.errors import DivergedError, UsageError
from maml_jax.experiment import Evaluation, Experiment, build
from maml_jax.metrics import MetricWriter, read_metrics
from maml_jax.parallel import COUNTS
from maml_jax.types import Metrics, TrainState

BEST = "best_checkpoints"
EVALUATED_WITH = ("num_episodes", "shots", "query_shots", "num_steps")  # of config.eval


class Interrupted(Exception):  # noqa: N818 - not an error
    """The run was asked to stop; its state is saved. `code` is the exit status to end with."""

    def __init__(self, where: str, code: int) -> None:
        """Says where, as "at meta-step 20"."""
        super().__init__(f"stopped {where}; the same command resumes from there")
        self.code = code


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying in mid-step; a second one ends at once."""
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


def open_workdir(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Makes the folder and notes the config in it, or checks the one that is there.

    Raises:
      UsageError: the folder cannot be written, or holds a run of another config.
    """
    path = workdir / "config.json"
    new = json.loads(json.dumps(config.to_dict()))
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if path.exists():
            changed = differences(new, json.loads(path.read_text()))
            if changed:
                raise UsageError(
                    f"workdir {workdir} holds a run of another config ({'; '.join(changed)}); "
                    "use another --workdir, or that run's config to go on with it"
                )
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(new, indent=2) + "\n")
        temporary.replace(path)
    except OSError as error:
        raise UsageError(
            f"workdir {workdir} cannot be written ({error.strerror}); use another --workdir"
        ) from error


def read_evaluation(workdir: pathlib.Path) -> dict[str, Any]:
    """The evaluation of a finished run.

    Raises:
      UsageError: the run is not finished.
    """
    path = workdir / "evaluation.json"
    if not path.exists():
        raise UsageError(
            f"the run in {workdir} is not evaluated yet; its train command goes on with it"
        )
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def read_config(workdir: pathlib.Path) -> ConfigDict:
    """The config of the run in a folder.

    Raises:
      UsageError: the folder holds no run.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise UsageError(f"workdir {workdir} holds no run; train one there with experiments.train")
    config = default_config()
    # JSON knows no tuples: each value takes the type of its default.
    values = flatten(json.loads(path.read_text()))
    config.update_from_flattened_dict(
        {key: tuple(value) if isinstance(value, list) else value for key, value in values}
    )
    return config


def load_run(
    workdir: pathlib.Path, overrides: dict[str, Any] | None = None
) -> tuple[Experiment, TrainState]:
    """A run's functions, with other values in its `eval` section, and its newest state.

    Raises:
      UsageError: the folder holds no run or no checkpoint that can be read, or a bad override.
    """
    config = read_config(workdir)
    config.eval.update(overrides or {})
    experiment = build(config)
    checkpoints = Checkpoints(workdir, config.checkpoint.keep)
    state = checkpoints.restore(experiment.init())
    checkpoints.close()
    if state is None:
        raise UsageError(f"workdir {workdir} holds no checkpoint yet; train on with its command")
    return experiment, state


def _next_stop(step: int, config: ConfigDict) -> int:
    """End of the next dispatch: a multiple of steps_per_dispatch, whatever step a resume is at.

    Or the end of the phase of first-order gradients: a dispatch is of one phase.
    """
    every, phase = config.steps_per_dispatch, config.inner.first_order_until
    stop = min((step // every + 1) * every, config.num_meta_steps)
    return min(stop, phase) if step < phase else stop


def _crossed(before: int, after: int, every: int) -> bool:
    return before // every != after // every


class _Progress:
    """The progress bar and the log of a run: means, and sums of counts, over log_every steps."""

    def __init__(self, config: ConfigDict, workdir: pathlib.Path, step: int) -> None:
        self._config = config
        self._step = step
        self._writer = MetricWriter(workdir, step)
        self._bar = tqdm(
            total=config.num_meta_steps, initial=step, unit=" meta-steps", desc=workdir.name
        )
        self._start_interval()

    def _start_interval(self) -> None:
        self._started = time.perf_counter()
        self._sums: dict[str, float] = {}
        self._steps = 0

    def update(self, step: int, metrics: Metrics, summary: Callable[[], dict[str, float]]) -> None:
        """Takes in a dispatch's metrics; writes them and a summary at the end of an interval."""
        number = step - self._step
        for name, value in metrics.items():
            weight = 1 if name in COUNTS else number
            self._sums[name] = self._sums.get(name, 0.0) + weight * float(value)
        self._steps += number
        self._bar.update(number)
        self._bar.set_postfix(loss=f"{float(metrics['loss']):.4g}")
        last = step == self._config.num_meta_steps
        if _crossed(self._step, step, self._config.log_every) or last:
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
        """Leaves the bar standing and flushes the log."""
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
        """Scores the state by accuracy, or by −loss where there is none, after the last step."""
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
        """Waits for writes under way."""
        self._checkpoints.close()


def train(experiment: Experiment, workdir: pathlib.Path) -> TrainState:
    """Trains, or resumes, to the last meta-step.

    Raises:
      Interrupted: SIGTERM or Ctrl-C; the state is saved.
      DivergedError: more than outer.max_nonfinite updates were skipped; the last good state is
        saved.
    """
    config = experiment.config
    checkpoints = Checkpoints(workdir, config.checkpoint.keep)
    state = experiment.init()
    restored = checkpoints.restore(state)
    if restored is not None:
        state = restored
        tqdm.write(
            f"resuming from meta-step {int(state.step)} of {config.num_meta_steps}", sys.stderr
        )
    step = int(state.step)
    progress = _Progress(config, workdir, step)
    selection = _Selection(experiment, workdir, step)
    try:
        with stop_requests() as received:
            while step < config.num_meta_steps:
                stop = _next_stop(step, config)
                state, metrics = experiment.train(state, stop - step)
                summary = partial(experiment.schedule.summary, state.meta_params)
                progress.update(stop, metrics, summary)
                _check_finite(state, config, checkpoints)
                done = stop == config.num_meta_steps
                every = config.eval.validation_every
                if every and (done or _crossed(step, stop, every)):
                    selection.validate(state, progress)
                if received or done or _crossed(step, stop, config.checkpoint.every):
                    checkpoints.save(state)
                if received:
                    raise Interrupted(f"at meta-step {stop}", 128 + received[0])
                step = stop
    finally:
        progress.close()
        selection.close()
        checkpoints.close()
    return state


def _check_finite(state: TrainState, config: ConfigDict, checkpoints: Checkpoints) -> None:
    skipped = int(state.skipped)
    if skipped > config.outer.max_nonfinite:
        checkpoints.save(state)
        raise DivergedError(
            f"{skipped} updates were not finite by meta-step {int(state.step)}, more than "
            f"outer.max_nonfinite={config.outer.max_nonfinite}; the last good state is saved. "
            "Lower inner.learning_rate or outer.learning_rate"
        )


def _estimates(evaluation: Evaluation) -> dict[str, Any]:
    record: dict[str, Any] = {"nonfinite_episodes": evaluation.nonfinite}
    for name, estimate in evaluation.estimates.items():
        record[name] = [float(value) for value in estimate.mean]
        record[f"{name}_ci95"] = [float(value) for value in estimate.ci95]
        record[f"{name}_median"] = [float(value) for value in estimate.median]
    return record


def _evaluate_state(experiment: Experiment, state: TrainState) -> dict[str, Any]:
    """What is kept of an evaluation: one JSON object.

    Learned lengths are evaluated hard; what the soft gates of training give is under "soft".
    """
    config, schedule = experiment.config, experiment.schedule
    evaluation = experiment.evaluate(state.meta_params)
    lengths = schedule.lengths(state.meta_params)
    record: dict[str, Any] = {
        "algorithm": config.algorithm,
        "meta_step": int(state.step),
        "seed": config.seed,
        **{name: config.eval[name] for name in EVALUATED_WITH},
        "inner_learning_rate": evaluation.learning_rate,
        "inner_compute": [schedule.compute(lengths, k) for k in range(config.eval.num_steps + 1)],
        **_estimates(evaluation),
    }
    if learned := schedule.learned(state.meta_params):
        record["learned"] = learned
    if schedule.halting is not None:
        record["lengths"] = schedule.summary(state.meta_params)
        record["length_counts"] = schedule.counts(state.meta_params)
        record["soft"] = _estimates(experiment.evaluate(state.meta_params, soft=True))
    return record


def _evaluate_both(
    experiment: Experiment, state: TrainState, workdir: pathlib.Path
) -> dict[str, Any]:
    """The state's record, with that of the validation-selected parameters under "selected"."""
    record = _evaluate_state(experiment, state)
    if not (workdir / BEST).exists():
        return record
    best = Checkpoints(workdir, keep=1, name=BEST)
    selected = best.restore(state)
    best.close()
    if selected is not None:
        record["selected"] = _evaluate_state(experiment, selected)
    return record


def evaluate_run(workdir: pathlib.Path, overrides: dict[str, Any]) -> dict[str, Any]:
    """Evaluates a run's newest and its selected state with other values in its `eval` section."""
    experiment, state = load_run(workdir, overrides)
    return _evaluate_both(experiment, state, workdir) | provenance.describe()


def _total(workdir: pathlib.Path, name: str) -> float:
    return sum(line.get(name, 0.0) for line in read_metrics(workdir))


def _write_evaluation(workdir: pathlib.Path, record: dict[str, Any]) -> None:
    """Writes evaluation.json; one that was made with other settings is kept under another name."""
    path = workdir / "evaluation.json"
    if path.exists():
        before = read_evaluation(workdir)
        if any(before.get(key) != record[key] for key in EVALUATED_WITH):
            old = workdir / f"evaluation_{len(list(workdir.glob('evaluation_*.json'))) + 1}.json"
            path.rename(old)
            tqdm.write(f"the evaluation with other settings is kept as {old}", sys.stderr)
    path.write_text(json.dumps(record, indent=2) + "\n")


def train_and_evaluate(config: ConfigDict, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Trains (or resumes) a run, evaluates it on held-out episodes, and so for its references.

    Args:
      config: see `maml_jax.config.default_config`.
      workdir: folder of this run; holds config.json, checkpoints, metrics.jsonl, TensorBoard
        events and, at the end, evaluation.json. References are runs in folders below it.

    Returns:
      The record that is also in evaluation.json.

    Raises:
      UsageError: a value, a folder or a checkpoint that will not do; nothing is overwritten.
      Interrupted: SIGTERM or Ctrl-C; the state is saved.
    """
    workdir = pathlib.Path(workdir)
    experiment = build(config)
    open_workdir(config, workdir)
    state = train(experiment, workdir)
    started = time.perf_counter()
    record = _evaluate_both(experiment, state, workdir) | {
        "train_seconds": round(_total(workdir, "seconds"), 1),
        "nonfinite_tasks": round(_total(workdir, "nonfinite_tasks")),  # dropped in training
        "evaluate_seconds": round(time.perf_counter() - started, 1),
        **provenance.describe(),
    }
    _write_evaluation(workdir, record)
    for name in config.references:
        train_and_evaluate(reference_config(config, name), workdir / name)
    return record
