"""Arms are tuned by their validation scores."""

import json
import pathlib

import numpy as np
import pytest

from experiments.studies import runner, runs, tuning
from experiments.studies.study import Family
from tests.experiments.studies.problems import alone, tiny_study


def test_an_arm_is_tuned_by_its_mean_score_over_seeds(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study()
    study = study._replace(family=study.family._replace(tuning_seeds=2))
    scores = {"maml_0_0": 0.5, "maml_0_1": 0.1, "maml_1_0": 0.4, "maml_1_1": 0.3}

    def score(family: Family, workdir: pathlib.Path) -> float:
        del family
        return scores[workdir.name.removeprefix("tune_")]

    monkeypatch.setattr(runs, "train_and_evaluate", lambda *_: {})
    monkeypatch.setattr(tuning, "validation_score", score)
    choice, trials = tuning.tune(study, "maml", tmp_path)
    assert choice == study.family.trials[1]
    np.testing.assert_allclose([of["validation_score"] for of in trials], [0.3, 0.35])


def test_an_arm_whose_every_trial_diverges_is_said_to(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study()
    monkeypatch.setattr(runs, "train_and_evaluate", lambda *_: {})
    monkeypatch.setattr(tuning, "validation_score", lambda *_: -np.inf)
    study = study._replace(arms={"maml": study.arms["maml"]})
    record = runner.run(study, tmp_path, train=alone)
    assert record["arms"]["maml"]["runs"] == []
    assert [t["validation_score"] for t in record["arms"]["maml"]["trials"]] == [None, None]


@pytest.mark.parametrize(
    ("nonfinite", "allowed", "tuned_by", "expected"),
    [
        (0, 0.0, "validation_score", 0.8),
        (1, 0.0, "validation_score", -np.inf),
        (1, 0.05, "validation_score", 0.8),
        (2, 0.05, "validation_score", -np.inf),
        (1, 0.05, "validation_loss_median", -0.3),
    ],
)
def test_a_trial_is_scored_by_the_last_validation(
    tmp_path: pathlib.Path, nonfinite: int, allowed: float, tuned_by: str, expected: float
) -> None:
    family = tiny_study().family._replace(tuned_by=tuned_by, nonfinite_allowed=allowed)
    family.base.eval.validation_episodes = 20
    line = {"validation_score": 0.8, "validation_loss_median": 0.3}
    counts = enumerate((9, nonfinite))
    lines = [line | {"step": step, "validation_nonfinite": number} for step, number in counts]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert tuning.validation_score(family, tmp_path) == expected
