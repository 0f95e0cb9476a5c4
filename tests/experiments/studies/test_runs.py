"""The runs of a study: trained once, those of one program together."""

import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from experiments.studies import runner, runs
from maml_jax.errors import UsageError
from maml_jax.run.population import Run
from tests.experiments.studies.problems import alone, finished_run, tiny_study
from tests.run.runs import tiny_config


@pytest.mark.slow
def test_a_study_in_populations_has_the_numbers_of_single_runs(tmp_path: pathlib.Path) -> None:
    study = tiny_study()
    apart, together = (
        runner.run(study, tmp_path / name, train=train)["arms"]
        for name, train in (("apart", alone), ("together", runs.train_all))
    )
    for arm in study.arms:
        assert together[arm]["choice"] == apart[arm]["choice"]
        for before, after in zip(apart[arm]["runs"], together[arm]["runs"], strict=True):
            assert before["seed"] == after["seed"]
            assert after["population"] == 2
            np.testing.assert_allclose(after["loss"], before["loss"], rtol=1e-4)


def test_runs_of_one_program_are_trained_together_and_what_fails_is_named(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ({}, {"seed": 1}, {"algorithm": "anil"}, {"outer__learning_rate": 0.1})
    made = [Run(tiny_config(**of), tmp_path / str(i)) for i, of in enumerate(changes)]
    groups: list[list[str]] = []

    def train(given: Sequence[Sequence[Run]]) -> Iterator[list[str]]:
        for group in given:
            groups.append([run.workdir.name for run in group])
            yield ["no luck" if run.config.seed else "" for run in group]

    runs.train_all(made, largest=2, train_groups=train)
    assert groups == [["0", "1"], ["3"], ["2"]]
    assert f"{tmp_path / '1'}: no luck" in capsys.readouterr().err


def test_a_finished_run_is_not_taken_for_one_with_another_evaluation(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "train_and_evaluate", finished_run)
    study = tiny_study([0.01])
    study = study._replace(arms={"maml": study.arms["maml"]}, seeds=1)
    first = runner.run(study, tmp_path, train=alone)["arms"]
    config = (tmp_path / "maml_101" / "config.json").read_text()
    study.family.base.eval.shots += 1
    message = r"evaluated with other settings \(eval.shots: \d+ -> \d+\)"
    with pytest.raises(UsageError, match=message):
        runner.run(study, tmp_path, train=alone)
    assert (tmp_path / "maml_101" / "config.json").read_text() == config
    study.family.base.eval.shots -= 1
    assert runner.run(study, tmp_path, train=alone)["arms"] == first
