"""What is kept of a row, and what may be added to it."""

import json
import pathlib

import pytest

from experiments.ledger import records
from experiments.ledger.rows import ROWS
from experiments.publish import results
from maml_jax.errors import UsageError

KEPT = {  # row -> the result of version 0.1 that its first runs are from
    "omniglot-5way-1shot-cpu": "omniglot_5way_1shot",
    "omniglot-5way-1shot-cpu-published-head": "omniglot_5way_1shot_published_init",
    "omniglot-5way-5shot-cpu": "omniglot_5way_5shot",
    "omniglot-mlp-5way-1shot-cpu": "omniglot_mlp_5way_1shot",
    "cifar-fs-5way-1shot-cpu": "cifar_fs_5way_1shot",
    "sinusoid-5points": "sinusoid_paper",
    "sinusoid-oracle-10points": "sinusoid_paper",
}


@pytest.mark.parametrize("name", KEPT)
def test_results_of_version_0_1_are_runs_of_these_rows(name: str) -> None:
    runs = records.imported(ROWS[name], results.RESULTS / f"{KEPT[name]}.json")
    spec = ROWS[name].tested()
    assert [run["seed"] for run in runs] == list(range(3 if "sinusoid" in name else 1))
    assert {run["meta_step"] for run in runs} == {spec.num_meta_steps}
    assert all(run["shots"] == spec.eval.shots and run["hardware"] for run in runs)


@pytest.mark.parametrize(
    ("name", "result", "message"),
    [
        ("omniglot-5way-1shot", "omniglot_5way_1shot", "num_meta_steps: 20000 -> 60000"),
        ("omniglot-5way-5shot-cpu", "omniglot_5way_1shot", "task.shots: 1 -> 5"),
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
    assert kept <= set(ROWS)
    assert set(KEPT) <= kept
