"""Studies: arms tuned alike, trained with every seed, compared in pairs, and shown as a table."""

import pathlib

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments.publish import formats, results, study_tables
from experiments.publish.results import Record
from experiments.studies import runner, runs, tuning
from experiments.studies.comparisons import last
from experiments.studies.study import Arm
from maml_jax.errors import DivergedError, UsageError
from tests.experiments.studies.problems import alone, finished_run, tiny_study


def test_a_study_tunes_trains_compares_and_resumes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study([0.01])
    monkeypatch.setattr(runs, "train_and_evaluate", finished_run)
    record = runner.run(study, tmp_path, train=alone)
    adaptive = record["arms"]["adaptive_k"]
    assert [len(arm["trials"]) for arm in record["arms"].values()] == [1, 2]
    best = max(adaptive["trials"], key=lambda trial: trial["validation_score"])
    assert adaptive["choice"].items() <= best.items()
    score = tuning.validation_score(study.family, tmp_path / "tune_adaptive_k_0_0")
    assert adaptive["trials"][0]["validation_score"] == score
    assert [run["seed"] for run in adaptive["runs"]] == [101, 102]

    def fail(*_: object) -> None:
        raise AssertionError("a finished run is trained again")

    monkeypatch.setattr(runs, "train_and_evaluate", fail)
    again = runner.run(study, tmp_path, train=alone)
    assert again["arms"] == record["arms"]

    monkeypatch.setattr(results, "RESULTS", tmp_path)
    runner.keep("tiny", record, "loss", "maml")
    kept = results.read("tiny")
    assert (
        runner.run(study, tmp_path / "empty", runner.kept_arms(study, kept), alone)["arms"]
        == kept["arms"]
    )
    other = study._replace(arms={**study.arms, "maml": Arm({"inner.momentum": 0.8})})
    assert list(runner.kept_arms(other, kept)) == ["adaptive_k"]
    assert not runner.kept_arms(study._replace(seeds=3), kept)
    with pytest.raises(UsageError, match="the kept result has another tuning_steps"):
        runner.kept_arms(study, {**kept, "tuning_steps": 11})
    check_rows(record, kept)
    check_tables(record, len(kept["rows"]))


def check_rows(record: Record, kept: Record) -> None:
    rows = {row["arm"]: row for row in kept["rows"]}
    assert rows["maml"]["loss"]["difference"] == rows["maml"]["loss"]["half_width"] == 0
    losses = [run["loss"][-1] for run in record["arms"]["adaptive_k"]["runs"]]
    np.testing.assert_allclose(rows["adaptive_k"]["loss"]["mean"], np.mean(losses))
    assert rows["maml"]["compute"] == record["arms"]["maml"]["runs"][0]["inner_compute"][-1]


def check_tables(record: Record, num_rows: int) -> None:
    adaptive, maml = (record["arms"][arm]["runs"] for arm in ("adaptive_k", "maml"))
    table = study_tables.study("tiny").splitlines()
    assert len(table) == 2 + num_rows + 2
    assert sum("| adaptive_k |" in line for line in table) == 1
    of_means, of_medians = study_tables.pairs("tiny").splitlines()[2:]
    for line, measure in ((of_means, "loss"), (of_medians, "loss_median")):
        difference = last(adaptive, measure) - last(maml, measure)
        _, arm, text, cell, _ = line.split("|")
        assert (arm, text) == (" maml ", f" {formats.LOSSES[measure]} ")
        np.testing.assert_allclose(float(cell.split("±")[0]), difference.mean(), atol=5e-4)


def test_an_arm_that_diverges_in_training_is_said_to_and_the_others_go_on(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study()

    def train(config: ConfigDict, workdir: pathlib.Path) -> Record:
        if workdir.name == "maml_102":
            raise DivergedError("101 updates were not finite")
        return {"seed": config.seed, "train_seconds": 1.0, "evaluate_seconds": 1.0}

    monkeypatch.setattr(runs, "train_and_evaluate", train)
    monkeypatch.setattr(tuning, "validation_score", lambda *_: 0.0)
    arms = runner.run(study, tmp_path, train=alone)["arms"]
    assert arms["maml"]["runs"] == []
    assert arms["maml"]["stopped"] == "seed 102: 101 updates were not finite"
    assert [run["seed"] for run in arms["adaptive_k"]["runs"]] == [101, 102]
    assert "stopped" not in arms["adaptive_k"]
