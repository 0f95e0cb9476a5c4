"""What the studies share: tune every arm alike, train it with every seed, compare in pairs."""

import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from scipy import stats
from tqdm import tqdm

from experiments import results_io
from maml_jax import provenance
from maml_jax.metrics import read_metrics
from maml_jax.training import train_and_evaluate

TUNING_SEED = 1_000  # a seed that no reported run has

Overrides = Mapping[str, Any]


class Study(NamedTuple):
    """A comparison of arms on one family of tasks."""

    base: ConfigDict
    arms: Mapping[str, Overrides]
    trials: Sequence[Overrides]  # what every arm is tuned over, one short run each
    tuning_steps: int  # meta-steps of a short run
    seeds: Sequence[int]


def _config(study: Study, *overrides: Overrides) -> ConfigDict:
    config = ConfigDict(study.base.to_dict())
    for changes in overrides:
        config.update_from_flattened_dict(dict(changes))
    return config


def validation_score(workdir: pathlib.Path) -> float:
    """The last validation's score of a run: accuracy, or −loss."""
    scores = [m["validation_score"] for m in read_metrics(workdir) if "validation_score" in m]
    return scores[-1] if np.isfinite(scores[-1]) else -np.inf


def tune(study: Study, arm: str, root: pathlib.Path) -> tuple[Overrides, list[dict[str, Any]]]:
    """The trial with the best validation score, and all trials with theirs."""
    results = []
    for index, trial in enumerate(study.trials):
        workdir = root / f"tune_{arm}_{index}"
        short = {
            "num_meta_steps": study.tuning_steps,
            "seed": TUNING_SEED,
            "eval.validation_every": study.tuning_steps,
            "eval.num_episodes": study.base.eval.chunk,  # the test set takes no part in tuning
        }
        config = _config(study, study.arms[arm], trial, short)
        train_and_evaluate(config, workdir)
        results.append({**trial, "validation_score": validation_score(workdir)})
    best = int(np.argmax([result["validation_score"] for result in results]))
    return study.trials[best], results


def run(study: Study, root: pathlib.Path) -> dict[str, Any]:
    """Tunes and trains every arm; what is finished in `root` is not done again.

    Returns:
      The record of the study: per arm its trials, its choice and the evaluation of every seed.
    """
    started, arms = time.time(), {}
    progress = tqdm(study.arms, desc="arms")
    for arm in progress:
        progress.set_postfix_str(arm)
        choice, trials = tune(study, arm, root)
        runs = []
        for seed in study.seeds:
            workdir = root / f"{arm}_{seed}"
            config = _config(study, study.arms[arm], choice, {"seed": seed})
            path = workdir / "evaluation.json"
            record = json.loads(path.read_text()) if path.exists() else None
            record = record or train_and_evaluate(config, workdir)
            runs.append({k: v for k, v in record.items() if k not in provenance.KEYS})
        arms[arm] = {
            "overrides": dict(study.arms[arm]),
            "trials": trials,
            "choice": dict(choice),
            "runs": runs,
        }
    return {
        **provenance.describe(),
        "wall_seconds": round(time.time() - started),
        "config": study.base.to_dict(),
        "tuning_steps": study.tuning_steps,
        "arms": arms,
    }


def last(runs: Sequence[Mapping[str, Any]], measure: str) -> np.ndarray:
    """A measure after the last inner step, one number a seed."""
    return np.array([run[measure][-1] for run in runs])


def paired_interval(values: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Mean of the seed-paired differences, and the half-width of its 95% t-interval."""
    difference = values - reference
    spread = difference.std(ddof=1) / np.sqrt(difference.size)
    return float(difference.mean()), float(stats.t.ppf(0.975, difference.size - 1) * spread)


def summarise(record: dict[str, Any], measure: str, reference: str) -> list[dict[str, Any]]:
    """One row an arm: measure, compute, lengths, and the difference to the reference arm."""
    rows = []
    baseline = last(record["arms"][reference]["runs"], measure)
    for arm, result in record["arms"].items():
        values, runs = last(result["runs"], measure), result["runs"]
        difference, half_width = paired_interval(values, baseline)
        lengths = [run["lengths"] for run in runs if "lengths" in run]
        rows.append(
            {
                "arm": arm,
                measure: float(values.mean()),
                "difference": difference,
                "half_width": half_width,
                "compute": float(last(runs, "inner_compute").mean()),
                **{
                    key: float(np.mean([of_seed[f"length/{key}"] for of_seed in lengths]))
                    for key in ("mean", "p90", "p99", "max", "share_at_most")
                    if lengths
                },
                "nonfinite": sum(run["nonfinite_episodes"] for run in runs),
                "choice": result["choice"],
            }
        )
    return rows


def keep(name: str, record: dict[str, Any], measure: str, reference: str) -> None:
    """Prints the rows and writes results/NAME.json."""
    record["rows"] = summarise(record, measure, reference)
    for row in record["rows"]:
        print(row)
    print(results_io.write(name, record))
