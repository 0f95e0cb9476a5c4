"""Records of several runs are kept as one result."""

import json
import pathlib

import pytest

from experiments.publish import results
from maml_jax.errors import UsageError
from maml_jax.run.workdir import as_json
from tests.run.runs import tiny_config


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    return tmp_path


def write_run(workdir: pathlib.Path, **changes: object) -> str:
    """A finished run; one with the first seed has a baseline."""
    config = tiny_config(baselines=() if changes.get("seed") else ("oracle",), **changes)
    for folder in (workdir, *(workdir / name for name in config.baselines)):
        folder.mkdir()
        record = {"command": f"train {folder.name}", "seed": config.seed, "loss": [2.0, 1.0]}
        (folder / "evaluation.json").write_text(json.dumps(record))
    (workdir / "config.json").write_text(json.dumps(as_json(config)))
    return str(workdir)


def test_seeds_and_baselines_are_one_result(folder: pathlib.Path) -> None:
    runs = [write_run(folder / f"run{seed}", seed=seed) for seed in range(3)]
    record = json.loads(results.keep("waves", runs).read_text())
    assert record["command"] == "train run0"
    assert [(run["run"], run["seed"]) for run in record["runs"]] == [
        ("maml", 0),
        ("oracle", 0),
        ("maml", 1),
        ("maml", 2),
    ]
    assert results.read("waves")["runs"] == record["runs"]


def test_runs_of_other_configs_are_refused(folder: pathlib.Path) -> None:
    runs = [write_run(folder / "a"), write_run(folder / "b", inner__step_size=0.5, seed=1)]
    with pytest.raises(UsageError, match="b is of another config"):
        results.keep("waves", runs)
    with pytest.raises(UsageError, match="no runs are given"):
        results.keep("waves", [])
