"""What is kept of a row, and what may be added to it."""

import json
import pathlib

import pytest

from experiments.ledger import records
from experiments.ledger.rows import ROWS
from experiments.publish import results
from maml_jax.errors import UsageError

KEPT = "sinusoid_paper"  # a result of version 0.1, of several algorithms and shots


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("sinusoid-5points", "maml"),
        ("sinusoid-pretrained-10points", "pretrained"),
        ("sinusoid-oracle-5points", "oracle"),
    ],
)
def test_results_of_version_0_1_are_runs_of_these_rows(name: str, run: str) -> None:
    runs = records.imported(ROWS[name], results.RESULTS / f"{KEPT}.json")
    spec = ROWS[name].tested()
    assert [of["seed"] for of in runs] == [0, 1, 2]
    assert {(of["run"], of["meta_step"], of["shots"]) for of in runs} == {
        (run, spec.num_meta_steps, spec.eval.shots)
    }
    assert all(of["hardware"] for of in runs)


@pytest.mark.parametrize(
    ("name", "result", "message"),
    [
        ("omniglot-5way-1shot", KEPT, "task.name: sinusoid -> images"),
        ("sinusoid-5points", "equal_compute_sinusoid", "num_meta_steps: 6000 -> 70000"),
        ("sinusoid-5points", "nothing", "cannot be read"),
    ],
)
def test_other_runs_are_refused(name: str, result: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        records.imported(ROWS[name], results.RESULTS / f"{result}.json")


def test_a_run_takes_the_place_of_that_with_its_seed(tmp_path: pathlib.Path) -> None:
    row = ROWS["sinusoid-5points"]
    assert records.read("waves", tmp_path) == []
    records.add("waves", row, [{"seed": 2, "loss": [1.0]}, {"seed": 0, "loss": [2.0]}], tmp_path)
    path = records.add("waves", row, [{"seed": 2, "loss": [float("inf")]}], tmp_path)
    assert records.read("waves", tmp_path) == [
        {"seed": 0, "loss": [2.0]},
        {"seed": 2, "loss": [float("inf")]},
    ]
    assert json.loads(path.read_text())["config"]["num_meta_steps"] == 70_000


def test_the_ledger_has_files_of_rows_alone() -> None:
    kept = {path.stem for path in records.ledger().glob("*.json")}
    assert kept
    assert kept <= set(ROWS)
