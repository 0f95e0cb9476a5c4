"""A run in training: its checkpoints and the parameters that validation selects."""

import math
import pathlib
from collections.abc import Callable

from maml_jax.errors import DivergedError
from maml_jax.run.build import Experiment
from maml_jax.run.checkpoint import Checkpoints
from maml_jax.run.ensemble import Members
from maml_jax.run.files import Record
from maml_jax.run.formats import short_name
from maml_jax.run.messages import note
from maml_jax.run.metrics import read_metrics
from maml_jax.run.progress import Progress, crossed
from maml_jax.run.spec import RunSpec
from maml_jax.run.workdir import BEST, CHECKPOINTS, as_json
from maml_jax.types import Metrics, TrainState


class Selection:
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


def or_rewards(spec: RunSpec) -> str:
    """What else may be wrong in reinforcement learning, for a message."""
    if spec.task.name != "rl":
        return ""
    name = spec.own["rl"].environment
    return f", or see with maml_jax.rl.testing.check_environment({name!r}) if rewards are finite"


def _logged_best(workdir: pathlib.Path, step: int) -> float:
    """The best score up to a step, of a run that did not keep it beside the parameters."""
    scores = [
        line.get("validation_score") for line in read_metrics(workdir) if line["step"] <= step
    ]
    return max((score for score in scores if score is not None), default=-math.inf)


class RunInTraining:
    """One run's side of the training loop: its checkpoints, its log and its selection.

    Attributes:
      first: the state that it starts or resumes from.
      step: meta-steps done.
      failure: why it has ended early; None if it has not.
    """

    def __init__(
        self,
        experiment: Experiment,
        workdir: pathlib.Path,
        first: TrainState | None = None,
        runs: int = 1,
    ) -> None:
        """Opens or makes the files of a run; `runs` are trained together.

        Raises:
          UsageError: a file of the run cannot be read or written.
        """
        spec = self.spec = experiment.spec
        self.workdir, self.failure = workdir, None
        self._experiment = experiment
        config = as_json(experiment.config)
        self._checkpoints = Checkpoints(workdir / CHECKPOINTS, config, spec.checkpoint.keep)
        self.first, about = first or experiment.init(), Record()
        restored = self._checkpoints.restore(self.first)
        if restored is not None:
            self.first, about = restored.state, restored.about
            where = "" if runs == 1 else f"{short_name(workdir)}: "
            note(f"{where}resuming from meta-step {int(self.first.step)} of {spec.num_meta_steps}")
        self.step = int(self.first.step)
        self._selection = Selection(experiment, workdir, self.first)
        self._progress = Progress(spec, workdir, self.step, about.get("log"), runs)
        if (self._selection.step or 0) < (about.get("best_step") or 0):
            note(f"{BEST} lacks the best parameters before the checkpoint; going on without them")

    failure: DivergedError | None

    @property
    def ended(self) -> bool:
        """Whether nothing is left to train."""
        return self.failure is not None or self.step >= self.spec.num_meta_steps

    def reach(
        self, stop: int, metrics: Metrics, state: Callable[[], TrainState], *, save: bool
    ) -> None:
        """Logs, validates and saves what a dispatch to the meta-step `stop` has made.

        Raises:
          DivergedError: more than outer.max_nonfinite updates were skipped; the state is saved.
          UsageError: a file of the run cannot be written.
        """
        spec, step, self.step = self.spec, self.step, stop
        experiment = self._experiment
        self._progress.update(
            stop, metrics, lambda: experiment.learned.summary(state().meta_params)
        )
        self._check_finite(state)
        done = stop == spec.num_meta_steps
        every = spec.eval.validation_every
        if every and (done or crossed(step, stop, every)):
            self._selection.validate(state(), self._progress)
        if save or done or crossed(step, stop, spec.checkpoint.every):
            self._save(state())

    def _check_finite(self, state: Callable[[], TrainState]) -> None:
        skipped = int(state().skipped)
        if skipped > self.spec.outer.max_nonfinite:
            self._save(state())
            raise DivergedError(
                f"{skipped} updates were not finite by meta-step {self.step}, more than "
                f"outer.max_nonfinite={self.spec.outer.max_nonfinite}; the last good state is "
                f"saved. Lower inner.step_size or outer.learning_rate{or_rewards(self.spec)}"
            )

    def _save(self, state: TrainState) -> None:
        self._selection.wait()  # the best parameters are on the disk before a checkpoint counts
        self._checkpoints.save(
            state, log=self._progress.packed_log(), best_step=self._selection.step
        )

    def close(self) -> None:
        """Waits until everything is written."""
        for of in (self._progress, self._selection, self._checkpoints):
            of.close()
