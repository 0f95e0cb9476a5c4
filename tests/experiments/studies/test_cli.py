"""What the command line of a study keeps."""

import pathlib
from types import SimpleNamespace

import pytest

from experiments.publish import results
from experiments.publish.results import Record
from experiments.studies import cli, runs
from experiments.studies.study import Arm
from maml_jax.errors import UsageError
from tests.experiments.studies.problems import alone, finished_run, tiny_study


def test_keeping_a_result_loses_no_arm(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study([0.01])
    arms = {**study.arms, "adaptive_k": Arm({"algorithm": "adaptive_k"})}
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(cli, "WORKDIR", SimpleNamespace(value=str(tmp_path)))
    monkeypatch.setattr(runs, "train_and_evaluate", finished_run)
    monkeypatch.setattr(cli, "train_all", alone)
    here = SimpleNamespace(MOST=SimpleNamespace(value=32), chosen=lambda _: None)
    monkeypatch.setattr(cli, "executors", here)

    def keep(arms: dict[str, Arm], **flags: object) -> Record:
        values = {"EXTEND": False, **dict.fromkeys(("KEEP", "ARMS", "SEEDS", "STEPS"))}
        for flag, value in (values | flags).items():
            monkeypatch.setattr(cli, flag, SimpleNamespace(value=value))
        cli.run("tiny", study.family, arms, lambda record: next(iter(record["arms"])))
        return results.read("tiny")

    with pytest.raises(UsageError, match="result 'tiny' does not exist"):
        keep(arms, ARMS=["maml"])  # some arms alone are not kept, unless
    assert list(keep(arms, ARMS=["maml"], KEEP=True)["arms"]) == ["maml"]
    with pytest.raises(UsageError, match="the result tiny would lose maml; use --extend"):
        keep(arms, ARMS=["adaptive_k"], KEEP=True)
    both = keep(arms, ARMS=["adaptive_k"], EXTEND=True)
    assert list(both["arms"]) == ["maml", "adaptive_k"]
    assert both["run_seconds"] == 8
    assert both["extends"][0]["arms"] == ["maml"]
    of_run = both["arms"]["maml"]["runs"][0]
    assert (of_run["commit"], of_run["hardware"], "command" in of_run) == (
        "abc",
        "elsewhere",
        False,
    )
    other = arms | {"maml": Arm({"inner.momentum": 0.8})}
    with pytest.raises(UsageError, match="would lose maml; kept with other settings"):
        keep(other, ARMS=["adaptive_k"], EXTEND=True)
    assert results.read("tiny") == both
    assert keep(arms, SEEDS=1) == both  # a look at fewer seeds
    assert list(keep(arms)["arms"]) == ["maml", "adaptive_k"]
