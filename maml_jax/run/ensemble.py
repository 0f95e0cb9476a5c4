"""Parameters that are tested together: the best in validation, with their predictions averaged."""

import pathlib
from collections.abc import Callable, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from maml_jax.errors import UsageError
from maml_jax.inner.adapt import InnerLoop
from maml_jax.keys import stream_key
from maml_jax.meta.evaluate import PerEpisode, summarise
from maml_jax.parallel import make_episode_evaluation
from maml_jax.run.checkpoint import Checkpoints, Restored, every
from maml_jax.run.evaluation import Evaluation
from maml_jax.run.files import Record
from maml_jax.run.problem import Problem, ScoreFn
from maml_jax.run.spec import RunSpec
from maml_jax.types import Array, Examples, MetaParams, Metrics, Params, TrainState

FOLDER = "ensemble_checkpoints"  # in a workdir

EvaluateEnsembleFn = Callable[[Sequence[MetaParams]], Evaluation]


def _score(of: Restored) -> float:
    return float(of.about["score"])


def read_members(
    workdir: pathlib.Path, template: TrainState, config: Record, number: int
) -> list[TrainState]:
    """The states with the best validation, the best first.

    Raises:
      UsageError: the run has not kept so many.
    """
    kept = sorted(every(workdir / FOLDER, template, config), key=_score, reverse=True)
    if not kept:
        raise UsageError(
            f"the run in {workdir} has no validated parameters for eval.ensemble={number}; train "
            "one with this setting and eval.validation_every"
        )
    return [of.state for of in kept[:number]]


class Members:
    """Keeps the states with the best validation, in WORKDIR/ensemble_checkpoints."""

    def __init__(
        self, workdir: pathlib.Path, template: TrainState, config: Record, number: int
    ) -> None:
        """Goes on from what a run has kept; `number` is how many to keep."""
        self._number = number
        self._checkpoints = Checkpoints(workdir / FOLDER, config, keep=None)
        kept = every(workdir / FOLDER, template, config) if number > 1 else []
        self._scores = {int(of.state.step): _score(of) for of in kept}

    def add(self, state: TrainState, score: float) -> None:
        """Keeps a state if it is among the best; of equal ones, the earlier."""
        step = int(state.step)
        if self._number < 2 or step in self._scores:
            return
        if len(self._scores) >= self._number and score <= min(self._scores.values()):
            return
        self._checkpoints.save(state, score=score)
        self._scores[step] = score
        while len(self._scores) > self._number:
            worst = min(self._scores, key=lambda of: (self._scores[of], -of))
            self._checkpoints.delete(worst)  # waits until the new one is written
            del self._scores[worst]

    def wait(self) -> None:
        """Waits until they are written."""
        self._checkpoints.wait()

    def close(self) -> None:
        """Waits, and ends the threads that write."""
        self._checkpoints.close()


def make_ensemble_evaluation(
    spec: RunSpec, problem: Problem, inner_loop: InnerLoop
) -> EvaluateEnsembleFn:
    """The evaluation of several parameters on the test tasks.

    Each adapts to a task on its own; loss and metrics are those of their mean prediction.

    Raises:
      UsageError: the task does not define the score of a prediction.
    """
    if spec.eval.ensemble > 1 and problem.score is None:
        raise UsageError(
            f"eval.ensemble={spec.eval.ensemble} needs the score of predictions, which "
            f"task.name={spec.task.name!r} does not define; use 1"
        )

    def query_loss(params: Params, query: Examples, key: Array) -> tuple[Array, Metrics]:
        predictions = problem.predict(params, query)
        return problem.loss(params, query, key)[0], {
            "predictions": predictions,
            "targets": query.targets,
        }

    def evaluate(members: Sequence[MetaParams]) -> Evaluation:
        sampler = problem.sampler(spec.eval.shots, spec.eval.query_shots, "test")
        per_member = make_episode_evaluation(
            inner_loop,
            query_loss,
            sampler,
            num_episodes=spec.eval.num_episodes,
            chunk=spec.eval.chunk,
            step=0,  # the key is that of the stream
        )
        key = stream_key(spec.seed, "test")
        values = [per_member(meta_params, key) for meta_params in members]
        predictions = np.mean([of["predictions"] for of in values], axis=0)
        dtype = jax.eval_shape(sampler, key).query.targets.dtype
        targets = jnp.asarray(values[0]["targets"], dtype)
        over_steps = jax.vmap(cast(ScoreFn, problem.score))
        loss, metrics = jax.device_get(jax.vmap(over_steps)(predictions, targets))
        per_episode: PerEpisode = {"loss": loss, **metrics}
        return Evaluation(*summarise(per_episode), None, per_episode)

    return evaluate
