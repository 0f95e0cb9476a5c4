"""Results of version 0.1 are read with today's names."""

import json
import pathlib

import pytest

from experiments.publish import results
from maml_jax.run.config import check_key, flatten

OLD = {
    "command": "python -m experiments.halting_study --arms=maml",
    "config": {
        "references": [],
        "inner": {"learning_rate": 0.01, "rates": "auto", "num_steps": 1},
        "halting": {"gate": "auto"},
        "outer": {"learning_rate": 0.006, "halting_from": 10, "rates_learning_rate": 1e-4},
    },
    "arms": {
        "maml_rates": {
            "overrides": {"halting.gate": "ramp", "outer.halting_learning_rate": 0.05},
            "trials": [{"inner.learning_rate": 0.01, "validation_score": 0.5}],
            "runs": [{"inner_learning_rate": 0.01, "learned": {"rate/head/bias": {"min": 0.0}}}],
        },
    },
}
NEW = {
    "command": "python -m experiments.halting_study --arms=maml",
    "config": {
        "baselines": [],
        "inner": {"step_size": 0.01, "step_sizes": "auto", "num_steps": 1},
        "lengths": {"gate": "auto"},
        "outer": {"learning_rate": 0.006, "lengths_from": 10, "step_sizes_learning_rate": 1e-4},
    },
    "arms": {
        "maml_rates": {
            "overrides": {"lengths.gate": "ramp", "outer.lengths_learning_rate": 0.05},
            "trials": [{"inner.step_size": 0.01, "validation_score": 0.5}],
            "runs": [{"inner_step_size": 0.01, "learned": {"step_size/head/bias": {"min": 0.0}}}],
        },
    },
}


@pytest.mark.parametrize("written", [OLD, NEW], ids=["of version 0.1", "of today"])
def test_a_result_is_read_with_the_names_of_today(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, written: results.Record
) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    results.write("old", written)
    assert results.read("old") == NEW


@pytest.mark.parametrize("path", sorted(results.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_config_that_is_kept_has_keys_of_today(path: pathlib.Path) -> None:
    record = results.read(path.stem)
    for key, _ in flatten(record.get("config", {})):
        check_key(key)
    assert set(record) == set(json.loads(path.read_text()))
