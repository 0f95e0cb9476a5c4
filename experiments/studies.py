"""What the studies share: tune every arm alike, train it with every seed, compare in pairs."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from scipy import stats
from tqdm import tqdm

from configs import omniglot, sinusoid
from experiments import processes, results_io
from maml_jax import provenance
from maml_jax.config import differences
from maml_jax.errors import DivergedError, UsageError
from maml_jax.experiment import build
from maml_jax.inner.compute import count_flops
from maml_jax.metrics import read_metrics
from maml_jax.training import open_workdir, read_config, read_evaluation, train_and_evaluate

TUNING_SEED = 1_000  # and following, which no reported run has

Overrides = Mapping[str, Any]


class Family(NamedTuple):
    """Tasks, and the size of the runs on them."""

    base: ConfigDict
    trials: Sequence[Overrides]  # what every arm is tuned over
    tuning_steps: int  # meta-steps of a tuning run
    tuning_seeds: int  # whose scores are averaged
    seeds: int
    wait: float  # share of the meta-steps before lengths are learned
    first_seed: int  # of the reported runs; settings were tried out on lower ones
    steps: int  # inner steps of MAML whose compute all arms are held to
    k_max: int
    measure: str  # of the evaluation; "loss" or "accuracy"
    tuned_by: str = "validation_score"  # what tuning maximises: accuracy or −loss; or a loss's name
    nonfinite_allowed: float = 0.0  # share of validation tasks; a trial with more loses


def _lasting(num_meta_steps: int, wait: float) -> dict[str, int]:
    return {
        "num_meta_steps": num_meta_steps,
        "outer.halting_from": round(wait * num_meta_steps),
        "outer.multi_step_anneal": max(num_meta_steps // 10, 1),  # published: of 100,000
    }


def family(name: str, num_meta_steps: int | None = None) -> Family:
    """The sinusoid, or Omniglot 20-way 1-shot with 32 filters and 4 tasks a meta-batch."""
    rates: tuple[float, ...]
    if name == "sinusoid":
        base, steps = sinusoid.get_config(), num_meta_steps or 6_000
        changes: dict[str, Any] = {
            "references": (),
            "eval.shots": 10,
            "outer.schedule": "cosine",
            "eval.num_episodes": 1_000,
            "outer.clip_norm": 1.0,
        }
        rates, outer_rate = (0.0025, 0.005, 0.01, 0.02, 0.04), 6e-3
        sizes: dict[str, Any] = {
            "tuning_steps": 2_000,
            "tuning_seeds": 2,
            "seeds": 10,
            "wait": 0.25,
            "first_seed": 401,
            "steps": 5,
            "k_max": 20,
            "measure": "loss",
        }
    else:
        base, steps = omniglot.get_config("20way_1shot_cpu"), num_meta_steps or 4_000
        changes = {
            "meta_batch_size": 4,
            "model.filters": 32,
            "eval.num_episodes": 600,
            "eval.validation_every": 0,
            "outer.clip": 1.0,
        }
        rates, outer_rate = (1.0, 2.0), 3e-3
        sizes = {
            "tuning_steps": 500,
            "tuning_seeds": 1,
            "seeds": 3,
            "wait": 0.0,
            "first_seed": 101,
            "steps": 3,
            "k_max": 10,
            "measure": "accuracy",
        }
    changes |= {"outer.learning_rate": outer_rate} | _lasting(steps, sizes["wait"])
    base.update_from_flattened_dict(changes)
    return Family(base, [{"inner.learning_rate": rate} for rate in rates], **sizes)


class Arm(NamedTuple):
    """One side of a comparison."""

    overrides: Overrides
    knob: Sequence[Overrides] = ({},)  # further values to tune, crossed with the family's trials


class Study(NamedTuple):
    """A comparison of arms on one family of tasks."""

    family: Family
    arms: Mapping[str, Arm]
    seeds: int


def configure(study: Study, *overrides: Overrides) -> ConfigDict:
    """The family's config with these values."""
    config = ConfigDict(study.family.base.to_dict())
    for changes in overrides:
        config.update_from_flattened_dict(dict(changes))
    return config


def _record(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """The run's evaluation; a finished run is not evaluated again.

    Raises:
      UsageError: it is finished, and was evaluated with other settings.
    """
    finished = (workdir / "evaluation.json").exists()
    if finished and (other := differences(config.to_dict(), read_config(workdir).to_dict(), ())):
        raise UsageError(
            f"workdir {workdir} holds a run that was evaluated otherwise ({'; '.join(other)}); "
            "use another --workdir"
        )
    open_workdir(config, workdir)
    if finished:
        return read_evaluation(workdir)
    try:
        return train_and_evaluate(config, workdir)
    finally:
        jax.clear_caches()  # the programs of dozens of runs exhaust a process' memory maps


def validation_score(family: Family, workdir: pathlib.Path) -> float:
    """The last validation's score of a run; −inf where too many tasks diverged."""
    last = [line for line in read_metrics(workdir) if "validation_score" in line][-1]
    score: float = last[family.tuned_by]
    score = score if family.tuned_by == "validation_score" else -score
    most = family.nonfinite_allowed * family.base.eval.validation_episodes
    return score if np.isfinite(score) and last["validation_nonfinite"] <= most else -np.inf


def _seeds(study: Study) -> range:
    return range(study.family.first_seed, study.family.first_seed + study.seeds)


def _trials(study: Study, arm: str) -> list[Overrides]:
    return [{**trial, **value} for trial in study.family.trials for value in study.arms[arm].knob]


def _tuning(study: Study, arm: str, root: pathlib.Path) -> list[list[processes.Run]]:
    """A trial's runs, one a seed; none where there is nothing to choose."""
    overrides, trials = study.arms[arm].overrides, _trials(study, arm)
    short = _lasting(study.family.tuning_steps, study.family.wait) | {
        "eval.validation_every": study.family.tuning_steps,
        "eval.num_episodes": study.family.base.eval.chunk,  # tests take no part in tuning
    }

    def run(index: int, seed: int) -> processes.Run:
        changes = short, overrides, trials[index], {"seed": TUNING_SEED + seed}
        return configure(study, *changes), root / f"tune_{arm}_{index}_{seed}"

    seeds = range(study.family.tuning_seeds) if len(trials) > 1 else ()
    return [[run(index, seed) for seed in seeds] for index in range(len(trials))]


def tune(
    study: Study, arm: str, root: pathlib.Path
) -> tuple[Overrides | None, list[dict[str, Any]]]:
    """The trial with the best validation score, mean over seeds, and all trials with theirs.

    None where every trial diverged. A single trial is taken as it is.
    """
    trials = _trials(study, arm)
    if len(trials) == 1:
        return trials[0], [{**trials[0], "validation_score": None}]

    def score(config: ConfigDict, workdir: pathlib.Path) -> float:
        try:
            _record(config, workdir)
        except DivergedError:
            return -np.inf
        return validation_score(study.family, workdir)

    scores = [np.mean([score(*run) for run in runs]) for runs in _tuning(study, arm, root)]
    results = [
        {**trial, "validation_score": score if np.isfinite(score) else None}
        for trial, score in zip(trials, scores, strict=True)
    ]
    best = int(np.argmax(scores))
    return trials[best] if np.isfinite(scores[best]) else None, results


def _reported(
    study: Study, arm: str, choice: Overrides | None, root: pathlib.Path
) -> list[processes.Run]:
    """An arm's runs at its chosen trial, one a seed; none where every trial diverged."""
    if choice is None:
        return []
    changes = study.arms[arm].overrides, choice
    return [
        (configure(study, *changes, {"seed": seed}), root / f"{arm}_{seed}")
        for seed in _seeds(study)
    ]


def optimizer_flops(config: ConfigDict) -> float:
    """FLOPs of the inner optimizer's own matrix products in a full step; C leaves them out."""

    def of_step(config: ConfigDict) -> float:
        experiment, key = build(config), jax.random.key(0)
        sample = experiment.problem.sampler(config.task.shots, config.task.query_shots, "train")
        step = partial(experiment.adapt_fn, num_steps=1)
        return count_flops(step, experiment.init().meta_params, sample(key).support, key)

    plain = ConfigDict(config.to_dict())
    plain.inner.optimizer, plain.inner.learn_optimizer = "sgd", "none"
    return of_step(config) - of_step(plain)


def _run_arm(study: Study, arm: str, root: pathlib.Path) -> dict[str, Any]:
    choice, trials = tune(study, arm, root)
    runs: list[dict[str, Any]] = []
    stopped, here = {}, provenance.of_process()
    for config, workdir in _reported(study, arm, choice, root):
        try:
            record = _record(config, workdir)
        except DivergedError as error:
            stopped, runs = {"stopped": f"seed {config.seed}: {error}"}, []
            break
        runs.append(
            {
                key: value
                for key, value in record.items()
                if key != "command" and (key not in here or value != here[key])
            }
        )
    overrides = study.arms[arm].overrides
    result: dict[str, Any] = {"overrides": overrides, "trials": trials, "choice": choice}
    if "inner.optimizer" in overrides:
        result["optimizer_flops"] = optimizer_flops(configure(study, overrides))
    return {**result, "runs": runs, **stopped}


def _settings(family: Family) -> dict[str, Any]:
    settings = {
        "config": family.base.to_dict(),
        "tuning_steps": family.tuning_steps,
        "tuning_seeds": family.tuning_seeds,
        "tuned_by": family.tuned_by,
        "nonfinite_allowed": family.nonfinite_allowed,
    }
    return dict(json.loads(json.dumps(settings)))  # tuples as lists: as a result has them


def kept_arms(study: Study, kept: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a kept record's arms that this study would tune and train alike.

    Raises:
      UsageError: the record has other settings or library versions.
    """
    now = _settings(study.family) | {"versions": provenance.describe()["versions"]}
    for key, value in now.items():
        before = kept.get(key, Family._field_defaults.get(key))
        other = differences(value, before, ()) if key == "config" else value != before
        if other:
            raise UsageError(f"the kept result has another {key}; train all arms, without --extend")
    seeds = list(_seeds(study))

    def alike(name: str) -> bool:
        arm = kept["arms"].get(name, {"trials": []})
        tuned = [
            {key: value for key, value in trial.items() if key != "validation_score"}
            for trial in arm["trials"]
        ]
        return (
            tuned == _trials(study, name)
            and arm["overrides"] == study.arms[name].overrides
            and [run["seed"] for run in arm["runs"]] in (seeds, [])
        )

    return {name: kept["arms"][name] for name in study.arms if alike(name)}


def _ahead(study: Study, root: pathlib.Path, jobs: int, programs: str) -> None:
    """Trains all that `run` asks for in several processes; it then only reads."""
    tuning = [run for arm in study.arms for runs in _tuning(study, arm, root) for run in runs]
    processes.train_all(tuning, jobs, programs)
    choices = {arm: tune(study, arm, root)[0] for arm in study.arms}
    reported = [run for arm in study.arms for run in _reported(study, arm, choices[arm], root)]
    processes.train_all(reported, jobs, programs)


def run(
    study: Study, root: pathlib.Path, kept: Mapping[str, Any] | None = None, jobs: int = 1
) -> dict[str, Any]:
    """Tunes and trains every arm; what is finished in `root` is not done again.

    Args:
      study: the arms.
      root: folder of their workdirs.
      kept: arms already done elsewhere, as `kept_arms` gives them.
      jobs: runs trained at once, each in a process of its own.

    Returns:
      The record of the study: per arm its trials, its choice and the evaluation of every seed.
    """
    # Runs that differ in seed or learning rate alone are one program.
    programs = os.environ.get("JAX_COMPILATION_CACHE_DIR", str((root / "programs").resolve()))
    jax.config.update("jax_compilation_cache_dir", programs)
    kept = kept or {}
    if jobs > 1:
        left = {name: arm for name, arm in study.arms.items() if name not in kept}
        _ahead(study._replace(arms=left), root, jobs, programs)
    arms = {}
    progress = tqdm(study.arms, desc="arms")
    for arm in progress:
        progress.set_postfix_str(arm)
        arms[arm] = kept.get(arm) or _run_arm(study, arm, root)
    return {**provenance.describe(), **_settings(study.family), "arms": arms}


def last(runs: Sequence[Mapping[str, Any]], measure: str) -> np.ndarray:
    """A measure after the last inner step, one number a seed."""
    return np.array([run[measure][-1] for run in runs])


def paired_interval(values: np.ndarray, reference: np.ndarray | float) -> tuple[float, float]:
    """Mean of the seed-paired differences, and the half-width of its 95% t-interval."""
    difference = values - reference
    spread = difference.std(ddof=1) / np.sqrt(difference.size)
    return float(difference.mean()), float(stats.t.ppf(0.975, difference.size - 1) * spread)


def _compare(
    runs: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]], measure: str
) -> dict[str, float]:
    values, reference = last(runs, measure), last(baseline, measure)
    difference, half_width = paired_interval(values, reference)
    return {"mean": float(values.mean()), "difference": difference, "half_width": half_width}


def of_lengths(runs: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """A number of the learned lengths, "p99", one a seed; none where lengths are not learned."""
    return np.array([run["lengths"][f"length/{name}"] for run in runs if "lengths" in run])


def _of_all_lengths(
    runs: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Means over seeds, the maximum, and the difference of p99 where both sides learn lengths."""
    p99, reference = of_lengths(runs, "p99"), of_lengths(baseline, "p99")
    if not p99.size:
        return {}
    names = ("mean", "p90", "p99", "share_at_0", "share_at_most")
    row: dict[str, Any] = {name: float(of_lengths(runs, name).mean()) for name in names}
    row["max"] = float(of_lengths(runs, "max").max())
    return row | ({"p99_difference": paired_interval(p99, reference)} if reference.size else {})


def summarise(record: dict[str, Any], measure: str, reference: str) -> list[dict[str, Any]]:
    """One row an arm that has runs: measures, compute, lengths, difference to the reference arm.

    A loss is compared by its mean over tasks and by their median: one task in thousands that
    diverges decides a mean.
    """
    rows = []
    measures = ("loss", "loss_median") if measure == "loss" else (measure,)
    baseline = record["arms"][reference]["runs"]
    trained = {name: arm for name, arm in record["arms"].items() if arm["runs"]}
    for arm, result in trained.items():
        runs = result["runs"]
        rows.append(
            {
                "arm": arm,
                **{name: _compare(runs, baseline, name) for name in measures},
                "compute": float(last(runs, "inner_compute").mean()),
                **_of_all_lengths(runs, baseline),
                "nonfinite": sum(run["nonfinite_episodes"] for run in runs),
                "nonfinite_training": sum(run.get("nonfinite_tasks", 0) for run in runs),
                "choice": result["choice"],
            }
        )
    return rows


def keep(name: str, record: dict[str, Any], measure: str, reference: str) -> None:
    """Prints the rows and writes results/NAME.json."""
    record["reference"], record["measure"] = reference, measure
    runs = [run for arm in record["arms"].values() for run in arm["runs"]]
    seconds = [run["train_seconds"] + run["evaluate_seconds"] for run in runs]
    record["run_seconds"] = round(sum(seconds))
    record["rows"] = summarise(record, measure, reference)
    for row in record["rows"]:
        print(row)
    print(results_io.write(name, record))


def counts_of(arm: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Path -> how many of a tensor's parameters take 0, 1, … steps, over all seeds."""
    runs = [run["length_counts"] for run in arm["runs"]]
    return {path: np.sum([run[path] for run in runs], axis=0) for path in runs[0]}


def select(arms: Mapping[str, Any], names: Sequence[str] | None) -> dict[str, Any]:
    """The named arms; all where no names are given.

    Raises:
      UsageError: an unknown name.
    """
    unknown = set(names or ()) - set(arms)
    if unknown:
        raise UsageError(f"--arms={','.join(sorted(unknown))} is unknown; use {', '.join(arms)}")
    return {name: arms[name] for name in names or arms}
