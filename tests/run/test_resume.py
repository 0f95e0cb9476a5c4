"""A run that is killed or stopped goes on as if it never was."""

import json
import pathlib
import random
import signal
import subprocess
import time
from typing import NamedTuple

import jax
import numpy as np
import pytest

from maml_jax.run.metrics import read_metrics
from maml_jax.run.workdir import load_run
from tests.run.runs import ENVIRONMENT, ROOT, call, command
from tests.tasks.images.test_sources import write_tfds

SINUSOID = {"num_meta_steps": 1_000, "checkpoint__every": 50}
HOST_IMAGES = {
    "num_meta_steps": 300,
    "checkpoint__every": 20,
    "task__name": "images",
    "task__ways": 2,
    "task__shots": 1,
    "task__query_shots": 1,
    "eval__shots": 1,
    "eval__query_shots": 1,
    "eval__num_steps": 2,
    "data__name": "tfds:animals",
    "data__pool": "host",
    "inner__step_size": 0.5,
}
STOPS = {
    "sinusoid": (signal.SIGKILL, signal.SIGTERM, signal.SIGINT),
    "host_images": (signal.SIGKILL, signal.SIGTERM),
}


class Case(NamedTuple):
    """A run that is killed, and the same one that was not."""

    changes: dict[str, object]
    stops: tuple[signal.Signals, ...]
    uninterrupted: pathlib.Path


def start(case: Case, workdir: pathlib.Path) -> subprocess.Popen[bytes]:
    arguments = command("train", f"--workdir={workdir}", **case.changes)
    # A file and not a pipe: a full pipe would stall the run.
    with (workdir.parent / "stderr").open("w") as errors:
        return subprocess.Popen(
            arguments,
            cwd=ROOT,
            env=ENVIRONMENT,
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


@pytest.fixture(scope="module", params=["sinusoid", "host_images"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    root = tmp_path_factory.mktemp(request.param)
    changes: dict[str, object] = dict(SINUSOID)
    if request.param == "host_images":
        write_tfds(root / "tfds", names=[f"animal_{index}" for index in range(15)])
        folders = {"data__dir": root / "tfds", "data__cache_dir": root / "pools"}
        changes = {**HOST_IMAGES, **folders}
    case = Case(changes, STOPS[request.param], root / "uninterrupted")
    done = call(command("train", f"--workdir={case.uninterrupted}", **changes))
    assert done.returncode == 0, done.stderr
    return case


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
    experiment, state = load_run(workdir)
    assert int(state.step) == reached < experiment.config.num_meta_steps


@pytest.mark.slow  # test_loop and test_images_run resume within a process
def test_killed_or_stopped_at_random_points_and_resumed_is_bit_for_bit(
    case: Case, tmp_path: pathlib.Path
) -> None:
    workdir = tmp_path / "run"
    generator = random.Random(time.time_ns())
    span = int(str(case.changes["num_meta_steps"])) // (len(case.stops) + 1)
    for index, number in enumerate(case.stops):
        process = start(case, workdir)
        wait_for_step(workdir, generator.randrange(span * index + 10, span * (index + 1)), process)
        time.sleep(generator.random() * 0.05)
        stop(process, number, workdir)
    done = call(command("train", f"--workdir={workdir}", **case.changes))
    assert done.returncode == 0, done.stderr
    assert "resuming from meta-step" in done.stderr
    assert_same_run(workdir, case.uninterrupted)
