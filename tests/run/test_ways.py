"""Test episodes of other ways than those of training, and the values of every one of them."""

import csv
import json
import pathlib

import numpy as np
import pytest

from maml_jax.errors import UsageError
from maml_jax.run.build import build
from maml_jax.run.loop import evaluate_run, train_and_evaluate
from maml_jax.run.report import write_report
from tests.run.pictures import draw, picture_config


def test_test_episodes_of_other_ways(tmp_path: pathlib.Path) -> None:
    images = draw(tmp_path / "images", classes=30)
    config = picture_config(images, eval__ways=4, eval__num_episodes=16)
    record = train_and_evaluate(config, tmp_path / "run")
    assert record["ways"] == 4
    assert record["accuracy"][0] < 0.5
    assert write_report(tmp_path / "run").exists()
    table = tmp_path / "episodes.csv"
    fewer = evaluate_run(tmp_path / "run", {"ways": 2}, table)
    assert fewer["ways"] == 2
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["parameters"] for row in rows] == ["last"] * 16 + ["selected"] * 16
    accuracies = np.array([float(row["accuracy_2"]) for row in rows[:16]])
    assert accuracies.mean() == pytest.approx(fewer["accuracy"][2], rel=1e-6)
    assert set(accuracies) <= {0, 0.25, 0.5, 0.75, 1}  # of 2 ways with 2 query images
    evaluate_run(tmp_path / "run", {"num_episodes": 3}, tmp_path / "episodes.json")
    kept = json.loads((tmp_path / "episodes.json").read_text())
    assert kept["evaluation"]["ways"] == 4
    assert len(kept["episodes"][0]["loss"]) == 3
    with pytest.raises(UsageError, match=r"is neither a \.csv nor a \.json file"):
        evaluate_run(tmp_path / "run", {}, tmp_path / "episodes.txt")


def test_outputs_that_do_not_adapt_cannot_be_more(tmp_path: pathlib.Path) -> None:
    images = draw(tmp_path / "images", classes=30)
    build(picture_config(images, algorithm="boil", eval__ways=2))
    with pytest.raises(UsageError, match=r"algorithm='boil' does not adapt head/bias"):
        build(picture_config(images, algorithm="boil", eval__ways=4))
