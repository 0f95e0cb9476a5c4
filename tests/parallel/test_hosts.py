"""Processes that train together give what one process gives; one that is lost ends all."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
import pytest

from maml_jax.errors import UsageError
from maml_jax.parallel import hosts
from maml_jax.run.loop import train_and_evaluate
from maml_jax.run.metrics import read_metrics
from maml_jax.run.workdir import load_run, read_config
from tests.parallel import process
from tests.run.runs import ENVIRONMENT, ROOT, call, command

Process = subprocess.Popen[str]
LOST = "error: another process of this run has ended"
LONGEST = 60.0  # seconds until all have noticed that one is lost


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def start(arguments: list[str], log: pathlib.Path) -> Process:
    with log.open("w") as errors:
        return subprocess.Popen(
            arguments, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=errors, text=True
        )


def results_of(number: int, folder: pathlib.Path) -> list[dict[str, Any]]:
    """What each of the processes prints."""
    address = f"127.0.0.1:{free_port()}"
    module = [sys.executable, "-m", "tests.parallel.process", address, str(number)]
    processes = [start([*module, str(i)], folder / f"errors_{i}") for i in range(number)]
    outputs = [of.communicate(timeout=300)[0] for of in processes]
    for index, of in enumerate(processes):
        assert of.returncode == 0, (folder / f"errors_{index}").read_text()
    # gloo writes lines of its own, also after ours
    printed = [next(of for of in text.splitlines() if of.startswith("{")) for text in outputs]
    return [json.loads(line) for line in printed]


@pytest.mark.parametrize("number", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_give_what_one_gives(number: int, tmp_path: pathlib.Path) -> None:
    with jax.enable_x64(True):
        alone = process.results()
    together = results_of(number, tmp_path)
    assert [of["devices"] for of in together] == [2 * number] * number
    tasks = [task for of in together for task in of["tasks"]]
    assert sorted(tasks) == sorted(alone["tasks"])
    assert all(len(of["tasks"]) == len(alone["tasks"]) / number for of in together)
    for of in together:
        for name in ("gradient", "members", "losses"):
            for got, want in zip(of[name], alone[name], strict=True):
                np.testing.assert_allclose(got, want, rtol=1e-6)
        assert of["stops"]
    assert len({of["shared"] for of in together}) == 1


TRAINED = {
    "cpu_devices": 2,
    "num_meta_steps": 60,
    "checkpoint__every": 20,
    "outer__schedule": "constant",
}


def start_runs(
    number: int, workdir: pathlib.Path, **changes: object
) -> tuple[list[Process], list[pathlib.Path]]:
    address = f"--coordinator=127.0.0.1:{free_port()}"
    shared = ("--distributed", address, f"--processes={number}", f"--workdir={workdir}")
    logs = [workdir.parent / f"errors_{index}" for index in range(number)]
    commands = [
        command("train", *shared, f"--process={index}", **{**TRAINED, **changes})
        for index in range(number)
    ]
    return [start(of, log) for of, log in zip(commands, logs, strict=True)], logs


def wait_for_step(workdir: pathlib.Path, step: int) -> None:
    for _ in range(3_000):
        lines = list(read_metrics(workdir))
        if lines and lines[-1]["step"] >= step:
            return
        time.sleep(0.05)
    raise AssertionError(f"{workdir} has not reached {step}")


def ended(processes: list[Process], logs: list[pathlib.Path]) -> list[int]:
    """Exit codes."""
    for of, log in zip(processes, logs, strict=True):
        of.communicate(timeout=300)
        assert "Traceback" not in log.read_text()
    return [of.returncode for of in processes]


@pytest.mark.slow
def test_a_run_on_two_hosts_goes_on_on_one(tmp_path: pathlib.Path) -> None:
    workdir, alone = tmp_path / "run", tmp_path / "alone"
    assert ended(*start_runs(2, workdir, num_meta_steps=20)) == [0, 0]
    assert (workdir / "report.html").exists()
    config = read_config(workdir)
    config.num_meta_steps = 40
    records = [train_and_evaluate(config, folder) for folder in (workdir, alone)]
    np.testing.assert_allclose(records[0]["loss"], records[1]["loss"], rtol=1e-3)
    for got, want in zip(read_metrics(workdir), read_metrics(alone), strict=True):
        assert got["step"] == want["step"]
        np.testing.assert_allclose(got["loss"], want["loss"], rtol=1e-4)


@pytest.mark.slow
def test_a_stop_request_to_one_process_stops_all(tmp_path: pathlib.Path) -> None:
    """At the same meta-step, with the state saved."""
    workdir = tmp_path / "run"
    processes, logs = start_runs(2, workdir, num_meta_steps=100_000)
    wait_for_step(workdir, 20)
    processes[1].send_signal(signal.SIGTERM)
    assert ended(processes, logs) == [128 + signal.SIGTERM] * 2
    reached = int(load_run(workdir)[1].step)
    assert f"stopped at meta-step {reached};" in logs[0].read_text()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_and_the_run_resumes(
    victim: int, tmp_path: pathlib.Path
) -> None:
    workdir = tmp_path / "run"
    processes, logs = start_runs(2, workdir, num_meta_steps=100_000)
    wait_for_step(workdir, 40)
    children = f"/proc/{processes[victim].pid}/task/{processes[victim].pid}/children"
    os.kill(int(pathlib.Path(children).read_text().split()[0]), signal.SIGKILL)
    processes[victim].kill()
    processes[victim].communicate(timeout=LONGEST)
    started = time.monotonic()
    processes[1 - victim].communicate(timeout=LONGEST)
    assert processes[1 - victim].returncode == 2
    assert time.monotonic() - started < LONGEST
    assert logs[1 - victim].read_text().count(LOST) == 1
    assert int(load_run(workdir)[1].step) >= 20


@pytest.mark.slow
def test_a_coordinator_that_is_absent_is_told_in_one_line(tmp_path: pathlib.Path) -> None:
    absent = f"--coordinator=127.0.0.1:{free_port()}"
    done = call(
        command(
            "train", "--distributed", absent, "--processes=2", "--process=1",
            f"--workdir={tmp_path / 'run'}",
        )
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith(LOST)


def test_several_hosts_without_a_cluster_are_refused() -> None:
    with pytest.raises(UsageError, match="--coordinator=HOST:PORT --processes=N --process=INDEX"):
        hosts.start()
