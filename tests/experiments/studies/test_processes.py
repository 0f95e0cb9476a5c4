"""The runs of a study: trained once, also in processes of their own."""

import os
import pathlib
import signal
import sys
import threading
import time

import numpy as np
import pytest

from experiments import cli
from experiments.studies import processes, runner
from experiments.studies.processes import Run
from maml_jax.errors import UsageError
from maml_jax.run.algorithms import ALGORITHMS
from maml_jax.run.loop import Interrupted
from maml_jax.run.metrics import read_metrics
from maml_jax.run.workdir import load_run, open_workdir
from tests.experiments.studies.problems import finished_run, tiny_study
from tests.run.runs import tiny_config


@pytest.mark.slow
def test_runs_in_processes_of_their_own_give_the_same_study(tmp_path: pathlib.Path) -> None:
    study = tiny_study([0.01])
    study = study._replace(arms={"maml": study.arms["maml"]})
    alone, together = (
        runner.run(study, tmp_path / str(jobs), jobs=jobs)["arms"]["maml"]["runs"]
        for jobs in (1, 2)
    )
    for before, after in zip(alone, together, strict=True):
        assert before["seed"] == after["seed"]
        np.testing.assert_allclose(after["loss"], before["loss"], rtol=1e-5)
    assert (tmp_path / "2" / "maml_101" / processes.LOG).read_text()


OWN = """
from maml_jax.run import Algorithm, register_algorithm
register_algorithm("own", Algorithm("ours", "MAML"))
"""


@pytest.mark.slow
def test_runs_in_processes_of_their_own_stop_together_and_name_what_failed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them has an algorithm of --import."""
    (tmp_path / "own_entries.py").write_text(OWN)
    monkeypatch.setattr(ALGORITHMS, "_entries", dict(ALGORITHMS))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", [sys.argv[0], "--import=own_entries"])
    cli.import_modules()
    long, other = tmp_path / "long", tmp_path / "other"
    open_workdir(tiny_config(seed=1), other)

    def stop_once_it_trains() -> None:
        while not list(read_metrics(long)):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_once_it_trains, daemon=True).start()
    endless = tiny_config(num_meta_steps=10**6)
    own = tiny_config(num_meta_steps=10**6, algorithm="own")
    with pytest.raises(Interrupted, match="stopped with 2 runs to go"):
        processes.train_all([Run(own, long), Run(endless, other)], 2, str(tmp_path))
    assert int(load_run(long)[1].step) > 0
    with pytest.raises(UsageError, match=r"1 of 1 runs failed; see .*log.txt"):
        processes.train_all([Run(endless, other)], 1, str(tmp_path))
    assert "holds a run of another config (seed: 1 -> 0)" in (other / processes.LOG).read_text()


def test_a_finished_run_is_not_taken_for_one_with_another_evaluation(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "train_and_evaluate", finished_run)
    study = tiny_study([0.01])
    study = study._replace(arms={"maml": study.arms["maml"]}, seeds=1)
    first = runner.run(study, tmp_path)["arms"]
    config = (tmp_path / "maml_101" / "config.json").read_text()
    study.family.base.eval.shots += 1
    message = r"evaluated with other settings \(eval.shots: \d+ -> \d+\)"
    with pytest.raises(UsageError, match=message):
        runner.run(study, tmp_path)
    assert (tmp_path / "maml_101" / "config.json").read_text() == config
    study.family.base.eval.shots -= 1
    assert runner.run(study, tmp_path)["arms"] == first
