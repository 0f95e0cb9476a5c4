"""Comparisons of arms, paired by seed."""

import pathlib

import numpy as np
import pytest
from scipy import stats

from experiments.publish import results, study_tables
from experiments.publish.results import Record
from experiments.studies.comparisons import paired_interval, summarise
from tests.experiments.studies.problems import finished_run
from tests.run.runs import tiny_config


def test_a_paired_interval_is_that_of_the_paired_t_test() -> None:
    values, baseline = np.array([1.0, 2.5, 3.0]), np.array([0.5, 2.6, 2.0])
    mean, half_width = paired_interval(values, baseline)
    interval = stats.ttest_rel(values, baseline).confidence_interval(0.95)
    np.testing.assert_allclose((mean - half_width, mean + half_width), interval)


def with_lengths(*seeds: tuple[float, float, float]) -> Record:
    """Runs of (median loss, p99, max)."""
    names = ("mean", "p90", "share_at_0", "share_at_most")
    runs = [
        {
            "loss": [loss],
            "loss_median": [loss],
            "inner_compute": [1e6],
            "nonfinite_episodes": 0,
            "lengths": {
                "length/p99": p99,
                "length/max": longest,
                **dict.fromkeys((f"length/{name}" for name in names), 0.5),
                "inner_compute": 2e6,
                "inner_compute_share": 0.5,
            },
        }
        for loss, p99, longest in seeds
    ]
    return {"overrides": {}, "choice": {}, "runs": runs}


def test_lengths_are_compared_seed_by_seed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = with_lengths((0.1, 9.0, 12.0), (0.2, 10.0, 17.0))
    fast |= {"overrides": {"inner.optimizer": "fast"}, "optimizer_flops": 1.5e5}
    arms = {"gd": with_lengths((0.4, 18.0, 20.0), (0.5, 20.0, 20.0)), "fast": fast}
    record = {"arms": arms, "config": {"inner": {"num_steps": 20}}, "measure": "loss"}
    rows = summarise(record, "loss", "gd")
    interval = stats.ttest_rel([9.0, 10.0], [18.0, 20.0]).confidence_interval(0.95)
    mean, half_width = rows[1]["p99_difference"]
    np.testing.assert_allclose((mean - half_width, mean + half_width), interval)
    assert (rows[1]["p99"], rows[1]["max"], rows[1]["mean"]) == (9.5, 17.0, 0.5)
    maml = {"choice": {}, "runs": [finished_run(tiny_config(), tmp_path)] * 2}
    beside_maml = summarise({"arms": {"maml": maml, **arms}}, "loss", "maml")
    assert "p99_difference" not in beside_maml[1]
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    results.write("acceleration_tiny", record)
    # A full step is 2e6 / 0.5 / 20 = 2e5 FLOPs, of which three quarters are for the optimizer.
    cells = "| fast | 9.5 | -9.5 ± 6.4; median wins | 300% |"
    assert study_tables.shorter("acceleration_tiny").splitlines()[2] == cells
    for run in fast["runs"]:
        run["inner_compute"] = [1.65e6]
    results.write("acceleration_tiny", record)
    assert "; median at 1.65 C |" in study_tables.shorter("acceleration_tiny")
