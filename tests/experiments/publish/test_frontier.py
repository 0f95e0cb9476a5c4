"""The figure of the measure against inner compute."""

import pathlib

import pytest

from experiments.publish import frontier, results
from tests.experiments.problems import accelerated_record


def test_the_frontier_shows_the_baseline_and_the_best_accelerated_arms(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {"gd": 0.1, "gd_rates_tensor": 0.2, **{f"fast_{i}": 1.0 + i for i in range(6)}}
    record = accelerated_record("loss_median", scores) | {"reference": "gd"}
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    results.write("acceleration_sinusoid_20", record)
    results.write("acceleration_sinusoid_20_cost_4", record)
    shown = [
        f"adaptive_k + {name}, K_max {setting}"
        for setting in ("20", "20, cost 4")
        for name in ("gd", *(f"fast_{i}" for i in range(4)))
    ]
    assert list(frontier.curves("sinusoid")) == shown
    labels = [line.get_label() for line in frontier.draw("sinusoid").axes[0].get_lines()]
    assert [label for label in labels if not label.startswith("_")] == shown
