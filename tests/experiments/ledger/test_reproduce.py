"""Rows run end to end, at a tiny size."""

import json
import pathlib
from collections.abc import Sequence

import pytest

from experiments.ledger import records, runs
from experiments.ledger.rows import ROWS
from experiments.publish.results import Record
from maml_jax.run.population import Run
from tests.run.runs import call_all


def test_wrong_flags_are_named() -> None:
    wrong = {
        "use either --row": ["--row=sinusoid-5points", "--all"],
        "'nothing' is unknown; choose from sinusoid-5points": ["--row=nothing"],
    }
    done = call_all([["reproduce", *flags] for flags in wrong.values()])
    for of, message in zip(done, wrong, strict=True):
        assert of.returncode == 2
        assert message in of.stderr


@pytest.mark.slow
def test_a_row_that_tests_the_runs_of_another_one(tmp_path: pathlib.Path) -> None:
    arguments = ["--seeds=1:2", "--smoke", f"--workdir={tmp_path}"]
    rows = ["sinusoid-5points", "sinusoid-10points"]
    done = call_all([["reproduce", f"--row={row}", *arguments] for row in rows])
    assert [of.returncode for of in done] == [0, 0], [of.stderr for of in done]
    assert "meta-steps/s" in done[0].stderr
    assert "meta-steps/s" not in done[1].stderr  # nothing is trained again
    for points in (5, 10):
        path = tmp_path / "ledger" / f"sinusoid-{points}points.json"
        (kept,) = json.loads(path.read_text())["runs"]
        assert kept["seed"] == 1
        assert kept["shots"] == points
        assert kept["train_seconds"] > 0
        assert kept["command"] == (
            f"python -m experiments.reproduce --row=sinusoid-{points}points --seeds=1 --smoke"
        )
        assert {"hardware", "versions", "commit"} <= kept.keys()


def test_seeds_may_be_trained_together(tmp_path: pathlib.Path) -> None:
    asked: list[Run] = []

    def population(of: Sequence[Run]) -> list[Record]:
        asked.extend(of)
        return [{"seed": run.config.seed} for run in of]

    made = runs.records_of("omniglot-5way-1shot", ROWS, [3, 5], tmp_path, train=population)
    assert [run.workdir for run in asked] == [
        tmp_path / "omniglot-5way-1shot" / f"seed_{seed}" for seed in (3, 5)
    ]
    assert [of["seed"] for of in made] == [3, 5]


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_every_row_runs_end_to_end(name: str, tmp_path: pathlib.Path) -> None:
    made = runs.records_of(name, ROWS, [0], tmp_path, smoke=True)
    path = records.add(name, ROWS[name], made, tmp_path / "ledger")
    (run,) = json.loads(path.read_text())["runs"]
    measure = "accuracy" if "accuracy" in run else "loss"
    steps = ROWS[name].tested().eval.num_steps
    assert run["meta_step"] == 2
    assert len(run[measure]) - 1 == run["num_steps"] <= steps
