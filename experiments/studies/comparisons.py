"""Comparisons of trained arms, paired by seed: measures, learned lengths and their intervals."""

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from experiments.publish.results import Record


def last(runs: Sequence[Record], measure: str) -> np.ndarray:
    """A measure after the last inner step, one number per seed."""
    return np.array([run[measure][-1] for run in runs])


def paired_interval(values: np.ndarray, baseline: np.ndarray | float) -> tuple[float, float]:
    """Mean of the differences, paired by seed, and the half-width of its 95% t-interval."""
    difference = values - baseline
    spread = difference.std(ddof=1) / np.sqrt(difference.size)
    return float(difference.mean()), float(stdtrit(difference.size - 1, 0.975) * spread)


def length_statistic(runs: Sequence[Record], name: str) -> np.ndarray:
    """A statistic of the learned lengths, such as "p99", one number per seed.

    Empty where lengths are not learned.
    """
    return np.array([run["lengths"][f"length/{name}"] for run in runs if "lengths" in run])


def length_counts(arm: Record) -> dict[str, np.ndarray]:
    """Path -> number of the tensor's parameters that take 0, 1, … steps, over all seeds."""
    runs = [run["length_counts"] for run in arm["runs"]]
    return {path: np.sum([run[path] for run in runs], axis=0) for path in runs[0]}


def _compare(runs: Sequence[Record], baseline: Sequence[Record], measure: str) -> dict[str, float]:
    values = last(runs, measure)
    difference, half_width = paired_interval(values, last(baseline, measure))
    return {"mean": float(values.mean()), "difference": difference, "half_width": half_width}


def _summarise_lengths(runs: Sequence[Record], baseline: Sequence[Record]) -> Record:
    """Means over seeds, the maximum, and the difference of p99 where both arms learn lengths."""
    p99, p99_of_baseline = length_statistic(runs, "p99"), length_statistic(baseline, "p99")
    if not p99.size:
        return {}
    names = ("mean", "p90", "p99", "share_at_0", "share_at_most")
    row: Record = {name: float(length_statistic(runs, name).mean()) for name in names}
    row["max"] = float(length_statistic(runs, "max").max())
    if p99_of_baseline.size:
        row["p99_difference"] = paired_interval(p99, p99_of_baseline)
    return row


def summarise(record: Record, measure: str, baseline: str) -> list[Record]:
    """One row per arm that has runs: measures, inner compute, lengths, difference to the baseline.

    A loss is compared both by its mean and by its median over tasks, because a single diverged
    task in thousands can dominate the mean.
    """
    rows = []
    measures = ("loss", "loss_median") if measure == "loss" else (measure,)
    baseline_runs = record["arms"][baseline]["runs"]
    trained = {name: arm for name, arm in record["arms"].items() if arm["runs"]}
    for arm, result in trained.items():
        runs = result["runs"]
        rows.append(
            {
                "arm": arm,
                **{name: _compare(runs, baseline_runs, name) for name in measures},
                "compute": float(last(runs, "inner_compute").mean()),
                **_summarise_lengths(runs, baseline_runs),
                "nonfinite": sum(run["nonfinite_episodes"] for run in runs),
                "nonfinite_training": sum(run.get("nonfinite_tasks", 0) for run in runs),
                "choice": result["choice"],
            }
        )
    return rows
