"""Running a study: tune every arm alike, train it with every seed, and keep what came out."""

import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import jax
from tqdm import tqdm

from experiments.publish import results
from experiments.publish.results import Record
from experiments.studies.comparisons import summarise
from experiments.studies.runs import evaluation_of, train_all
from experiments.studies.study import Family, Overrides, Study, configure
from experiments.studies.tuning import trials_of, tune, tuning_runs
from maml_jax.errors import DivergedError, UsageError
from maml_jax.run import provenance
from maml_jax.run.build import optimizer_flops
from maml_jax.run.config import differences
from maml_jax.run.population import Run

TrainAll = Callable[[Sequence[Run]], None]


def _reported_runs(
    study: Study, arm: str, choice: Overrides | None, root: pathlib.Path
) -> list[Run]:
    """An arm's runs with its chosen trial, one per seed; none if every trial diverged."""
    if choice is None:
        return []
    changes = study.arms[arm].overrides, choice
    return [
        Run(configure(study, *changes, {"seed": seed}), root / f"{arm}_{seed}")
        for seed in study.reported_seeds
    ]


def _evaluations(runs: Sequence[Run]) -> tuple[list[Record], Record]:
    """The evaluations of an arm's runs, or none of them and the reason if a run diverged."""
    evaluations, here = [], provenance.of_process()
    for run in runs:
        try:
            evaluation = evaluation_of(run)
        except DivergedError as error:
            return [], {"stopped": f"seed {run.config.seed}: {error}"}
        evaluations.append(
            {
                key: value
                for key, value in evaluation.items()
                if key != "command" and (key not in here or value != here[key])
            }
        )
    return evaluations, {}


def _run_arm(study: Study, arm: str, root: pathlib.Path) -> Record:
    choice, trials = tune(study, arm, root)
    evaluations, stopped = _evaluations(_reported_runs(study, arm, choice, root))
    overrides = study.arms[arm].overrides
    record: Record = {"overrides": overrides, "trials": trials, "choice": choice}
    if "inner.optimizer" in overrides:
        record["optimizer_flops"] = optimizer_flops(configure(study, overrides))
    return {**record, "runs": evaluations, **stopped}


def _settings(family: Family) -> Record:
    settings = {
        "config": family.base.to_dict(),
        "tuning_steps": family.tuning_steps,
        "tuning_seeds": family.tuning_seeds,
        "tuned_by": family.tuned_by,
        "nonfinite_allowed": family.nonfinite_allowed,
    }
    return dict(json.loads(json.dumps(settings)))  # tuples as lists: as a result has them


def kept_arms(study: Study, kept: Record) -> dict[str, Record]:
    """The arms of a kept result that this study would tune and train in the same way.

    Raises:
      UsageError: the result has other settings or library versions.
    """
    now = _settings(study.family) | {"versions": provenance.describe()["versions"]}
    for key, value in now.items():
        before = kept.get(key, Family._field_defaults.get(key))
        if differences(value, kept[key], ()) if key == "config" else value != before:
            raise UsageError(f"the kept result has another {key}; train all arms, without --extend")
    seeds = list(study.reported_seeds)

    def same(name: str) -> bool:
        arm = kept["arms"].get(name, {"trials": []})
        tuned = [
            {key: value for key, value in trial.items() if key != "validation_score"}
            for trial in arm["trials"]
        ]
        return (
            tuned == trials_of(study, name)
            and arm["overrides"] == study.arms[name].overrides
            and [run["seed"] for run in arm["runs"]] in (seeds, [])
        )

    return {name: kept["arms"][name] for name in study.arms if same(name)}


def _train_ahead(study: Study, root: pathlib.Path, train: TrainAll) -> None:
    """Trains everything that `run` asks for in populations, so that it only has to read."""
    train([run for arm in study.arms for runs in tuning_runs(study, arm, root) for run in runs])
    choices = {arm: tune(study, arm, root)[0] for arm in study.arms}
    train([run for arm in study.arms for run in _reported_runs(study, arm, choices[arm], root)])


def run(
    study: Study,
    root: pathlib.Path,
    kept: Mapping[str, Record] | None = None,
    train: TrainAll = train_all,
) -> Record:
    """Tunes and trains every arm; runs that are finished in `root` are not repeated.

    Args:
      study: the arms.
      root: folder of their workdirs.
      kept: arms that are done already, as `kept_arms` returns them.
      train: trains runs together.

    Returns:
      The record of the study: per arm its trials, its choice and the evaluation of every seed.
    """
    # Runs that differ in seed or learning rate alone are one program.
    programs = os.environ.get("JAX_COMPILATION_CACHE_DIR", str((root / "programs").resolve()))
    jax.config.update("jax_compilation_cache_dir", programs)
    kept = kept or {}
    left = {name: arm for name, arm in study.arms.items() if name not in kept}
    _train_ahead(study._replace(arms=left), root, train)
    arms = {}
    progress = tqdm(study.arms, desc="arms")
    for arm in progress:
        progress.set_postfix_str(arm)
        arms[arm] = kept.get(arm) or _run_arm(study, arm, root)
    return {**provenance.describe(), **_settings(study.family), "arms": arms}


def keep(name: str, record: Record, measure: str, baseline: str) -> None:
    """Writes results/NAME.json with the comparison to the baseline arm, and prints its rows."""
    record["reference"], record["measure"] = baseline, measure
    runs = [run for arm in record["arms"].values() for run in arm["runs"]]
    seconds = [run["train_seconds"] + run["evaluate_seconds"] for run in runs]
    record["run_seconds"] = round(sum(seconds))
    record["rows"] = summarise(record, measure, baseline)
    for row in record["rows"]:
        print(row)
    print(results.write(name, record))
