"""A run that is killed or stopped goes on as if it never was."""

import json
import pathlib
import random
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

from maml_jax.metrics import read_metrics
from maml_jax.training import load_run
from tests.runs import ROOT, call, command, environment

LONG = {"num_meta_steps": 2_000, "checkpoint__every": 100}


def start(workdir: pathlib.Path, cache: pathlib.Path) -> subprocess.Popen[bytes]:
    arguments = command("train", f"--workdir={workdir}", **LONG)
    # A file and not a pipe: a full pipe would stall the run.
    with (workdir.parent / "stderr").open("w") as errors:
        return subprocess.Popen(
            arguments,
            cwd=ROOT,
            env=environment(cache),
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


def wait_for_step(workdir: pathlib.Path, step: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        lines = list(read_metrics(workdir))
        if lines and lines[-1]["step"] >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"ended before {step}: {(workdir.parent / 'stderr').read_text()}")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, cache: pathlib.Path) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    done = call(command("train", f"--workdir={workdir}", **LONG), cache)
    assert done.returncode == 0, done.stderr
    return workdir


def assert_same_run(workdir: pathlib.Path, expected: pathlib.Path) -> None:
    for got, want in zip(
        jax.tree.leaves(load_run(workdir)[1]), jax.tree.leaves(load_run(expected)[1]), strict=True
    ):
        if jax.dtypes.issubdtype(got.dtype, jax.dtypes.prng_key):
            got, want = jax.random.key_data(got), jax.random.key_data(want)
        np.testing.assert_array_equal(np.asarray(got), np.asarray(want))
    got_record, want_record = (
        json.loads((folder / "evaluation.json").read_text()) for folder in (workdir, expected)
    )
    assert got_record["loss"] == want_record["loss"]
    without_time = [
        [{k: v for k, v in line.items() if "second" not in k} for line in lines]
        for lines in (read_metrics(workdir), read_metrics(expected))
    ]
    assert without_time[0] == without_time[1]


def stop(process: subprocess.Popen[bytes], number: signal.Signals, workdir: pathlib.Path) -> None:
    process.send_signal(number)
    code = process.wait(timeout=60)
    if number == signal.SIGKILL:
        return
    assert code == 128 + number
    errors = (workdir.parent / "stderr").read_text()
    assert "the same command resumes" in errors
    reached = int(errors.partition("stopped at meta-step ")[2].partition(";")[0])
    assert int(load_run(workdir)[1].step) == reached < LONG["num_meta_steps"]


def test_killed_or_stopped_at_random_points_and_resumed_is_bit_for_bit(
    tmp_path: pathlib.Path, cache: pathlib.Path, uninterrupted: pathlib.Path
) -> None:
    workdir = tmp_path / "run"
    generator = random.Random(time.time_ns())
    ways = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT]
    for index, number in enumerate(ways):
        process = start(workdir, cache)
        wait_for_step(workdir, generator.randrange(400 * index + 10, 400 * (index + 1)), process)
        time.sleep(generator.random() * 0.05)
        stop(process, number, workdir)
    done = call(command("train", f"--workdir={workdir}", **LONG), cache)
    assert done.returncode == 0, done.stderr
    assert "resuming from meta-step" in done.stderr
    assert_same_run(workdir, uninterrupted)
