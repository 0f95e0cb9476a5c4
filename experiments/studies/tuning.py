"""Tuning of an arm: each trial is trained for fewer meta-steps and scored on validation tasks."""

import pathlib

import numpy as np

from experiments.publish.results import Record
from experiments.studies.runs import evaluation_of
from experiments.studies.study import Family, Overrides, Study, configure, schedule_of
from maml_jax.errors import DivergedError
from maml_jax.run.metrics import read_metrics
from maml_jax.run.population import Run

TUNING_SEED = 1_000  # the first one; no reported run has these seeds


def validation_score(family: Family, workdir: pathlib.Path) -> float:
    """The score of a run's last validation; −inf if too many tasks diverged."""
    last = [line for line in read_metrics(workdir) if "validation_score" in line][-1]
    score: float = last[family.tuned_by]
    score = score if family.tuned_by == "validation_score" else -score
    most = family.nonfinite_allowed * family.base.eval.validation_episodes
    return score if np.isfinite(score) and last["validation_nonfinite"] <= most else -np.inf


def trials_of(study: Study, arm: str) -> list[Overrides]:
    """The family's trials, crossed with the values of the arm's own knob."""
    return [{**trial, **value} for trial in study.family.trials for value in study.arms[arm].knob]


def tuning_runs(study: Study, arm: str, root: pathlib.Path) -> list[list[Run]]:
    """The runs of each trial, one per seed; none where there is nothing to choose from."""
    overrides, trials = study.arms[arm].overrides, trials_of(study, arm)
    short = schedule_of(study.family.tuning_steps, study.family.wait) | {
        "eval.validation_every": study.family.tuning_steps,
        "eval.num_episodes": study.family.base.eval.chunk,  # tests take no part in tuning
    }

    def run(index: int, seed: int) -> Run:
        changes = short, overrides, trials[index], {"seed": TUNING_SEED + seed}
        return Run(configure(study, *changes), root / f"tune_{arm}_{index}_{seed}")

    seeds = range(study.family.tuning_seeds) if len(trials) > 1 else ()
    return [[run(index, seed) for seed in seeds] for index in range(len(trials))]


def _score(family: Family, run: Run) -> float:
    try:
        evaluation_of(run)
    except DivergedError:
        return -np.inf
    return validation_score(family, run.workdir)


def tune(study: Study, arm: str, root: pathlib.Path) -> tuple[Overrides | None, list[Record]]:
    """The trial with the best validation score, averaged over seeds, and all trials with theirs.

    The trial is None if every one diverged. A single trial is chosen without training.
    """
    trials = trials_of(study, arm)
    if len(trials) == 1:
        return trials[0], [{**trials[0], "validation_score": None}]
    scores = [
        np.mean([_score(study.family, run) for run in runs])
        for runs in tuning_runs(study, arm, root)
    ]
    results = [
        {**trial, "validation_score": score if np.isfinite(score) else None}
        for trial, score in zip(trials, scores, strict=True)
    ]
    best = int(np.argmax(scores))
    return trials[best] if np.isfinite(scores[best]) else None, results
