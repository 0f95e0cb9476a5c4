"""Kills, damaged files and full disks: a run goes on as if nothing had been, or says what to do.

A campaign prints what it counted: pytest -m slow -s tests/campaigns.
"""

import json
import pathlib
import random
import shutil
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from maml_jax.run.metrics import read_metrics
from tests.campaigns.forks import Ended, Forks, random_bytes_changed
from tests.run.runs import TINY
from tests.run.test_resume import assert_same_run

pytestmark = pytest.mark.slow

KILLS = 120
IMAGES = {
    "task.name": "images",
    "task.ways": 2,
    "task.shots": 1,
    "task.query_shots": 1,
    "eval.shots": 1,
    "eval.query_shots": 1,
    "eval.num_steps": 2,
    "eval.validation_every": 20,
    "eval.validation_episodes": 8,
}
WAYS = ("truncated", "zeroed", "flipped", "removed", "emptied")


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    forks = Forks()
    yield forks
    forks.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("faults")
    images = np.random.default_rng(0).integers(0, 256, (60, 6, 6, 1)).astype(np.uint8)
    np.savez(root / "noise.npz", images=images, labels=np.repeat(np.arange(15), 4))
    return root


def flags(root: pathlib.Path, folder: pathlib.Path) -> list[str]:
    """A run with its own cache, both in `folder`."""
    values = TINY | IMAGES | {"data.name": f"npz:{root / 'noise.npz'}"}
    values["data.cache_dir"] = folder / "cache"
    given = [f"--config.{key}={value}" for key, value in values.items()]
    return [f"--workdir={folder / 'run'}", *given]


@pytest.fixture(scope="module")
def whole(forks: Forks, root: pathlib.Path) -> tuple[pathlib.Path, Ended]:
    """A run that nothing happens to."""
    folder = root / "whole"
    forks.call("train", *flags(root, root / "warm"), watch=root)  # its programs are compiled now
    ended = forks.call("train", *flags(root, folder), watch=folder)
    assert ended.code == 0, ended.err
    return folder, ended


def part(path: str) -> str:
    """What a file belongs to."""
    names = ("checkpoints", "metrics", "events", "evaluation", "report", "config", "cache")
    return next((name for name in names if name in path), "start")


def lines_of_errors(ended: Ended) -> list[str]:
    return [line for line in ended.err.splitlines() if line.startswith("error: ")]


def test_killed_anywhere_a_run_resumes_to_the_same_bits(
    forks: Forks, root: pathlib.Path, whole: tuple[pathlib.Path, Ended]
) -> None:
    expected, uninterrupted = whole
    events, generator, counts = uninterrupted.events, random.Random(0), Counter[str]()
    parts = sorted({part(path) for path in events})
    while counts["kills"] < KILLS:
        folder = root / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        if counts["kills"] % 3:  # at an operation on a file, as often of each part
            chosen = generator.choice(parts)
            operations = [i for i, path in enumerate(events, 1) if part(path) == chosen]
            at = generator.choice(operations)
            ended = forks.call("train", *flags(root, folder), watch=folder, kill_at=at)
        else:
            after = generator.uniform(0.3, uninterrupted.seconds)
            ended = forks.call("train", *flags(root, folder), watch=folder, kill_after=after)
        assert ended.code in (-9, 0), ended.err
        if ended.code == -9:
            counts["kills"] += 1
            counts[f"in {part(ended.events[-1]) if ended.events else 'start'}"] += 1
        ended = forks.call("train", *flags(root, folder), watch=folder)
        assert ended.code == 0, (ended.err, counts)
        assert_same_run(folder / "run", expected / "run")
        for name in ("report.html", "evaluation.json", "config.json"):
            assert (folder / "run" / name).stat().st_size > 0
    print(dict(counts))


def files_of(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_file_of_a_workdir_and_its_cache_may_be_damaged(
    forks: Forks, root: pathlib.Path, whole: tuple[pathlib.Path, Ended]
) -> None:
    """A run that stopped at meta-step 50 of 60 continues to the same bits, or is refused."""
    expected, uninterrupted = whole
    stopped, folder = root / "stopped", root / "damaged"
    generator, counts = random.Random(0), Counter[str]()
    for at in range(
        len(uninterrupted.events), 0, -1
    ):  # the latest kill at which the run is unfinished
        shutil.rmtree(folder, ignore_errors=True)
        forks.call("train", *flags(root, folder), watch=folder, kill_at=at)
        lines = list(read_metrics(folder / "run"))
        if lines and lines[-1]["step"] < 60:
            break
    shutil.copytree(folder, stopped)
    content = files_of(stopped)
    assert any("checkpoints/" in name for name in content)
    for name, data in content.items():
        for how in WAYS:
            shutil.rmtree(folder)
            shutil.copytree(stopped, folder)
            if how == "removed":
                (folder / name).unlink()
            elif how == "emptied" or not data:
                (folder / name).write_bytes(b"")
            else:
                (folder / name).write_bytes(random_bytes_changed(data, how, generator))
            before = files_of(folder)
            ended = forks.call("train", *flags(root, folder), watch=folder)
            assert "Traceback" not in ended.err, (name, how, ended.err)
            counts["damages"] += 1
            if ended.code == 0:
                counts["continued"] += 1
                assert_same_run(folder / "run", expected / "run")
                continue
            counts["refused"] += 1
            assert ended.code == 2, (name, how, ended.err)
            assert len(lines_of_errors(ended)) == 1, (name, how, ended.err)
            after = files_of(folder)
            lost = [
                path
                for path, value in before.items()
                if after.get(path) != value and not path.endswith((".lock", "events"))
            ]
            assert not [path for path in lost if "checkpoints/" in path], (name, how, lost)
    print(dict(counts))


def test_a_finished_run_is_evaluated_and_reported_whatever_file_is_damaged(
    forks: Forks, root: pathlib.Path, whole: tuple[pathlib.Path, Ended]
) -> None:
    expected, _ = whole
    folder = root / "finished"
    generator, counts = random.Random(1), Counter[str]()
    record = json.loads((expected / "run" / "evaluation.json").read_text())
    for name, data in files_of(expected / "run").items():
        how = generator.choice(WAYS)
        for module in ("evaluate", "report"):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(expected, folder)
            path = folder / "run" / name
            if how == "removed":
                path.unlink()
            else:
                changed = b"" if how == "emptied" else random_bytes_changed(data, how, generator)
                path.write_bytes(changed if data else b"")
            ended = forks.call(module, f"--workdir={folder / 'run'}", watch=folder)
            counts[f"{module}, exit code {ended.code}"] += 1
            assert "Traceback" not in ended.err, (name, how, ended.err)
            assert ended.code in (0, 2), (name, how, ended.err)
            if ended.code == 2:
                assert len(lines_of_errors(ended)) == 1, (name, how, ended.err)
            elif module == "evaluate" and "checkpoints" not in name:
                assert json.loads(ended.out.splitlines()[-1])["loss"] == record["loss"]
    print(dict(counts))


def test_a_full_disk_loses_nothing(
    forks: Forks, root: pathlib.Path, whole: tuple[pathlib.Path, Ended]
) -> None:
    """Files cannot grow beyond some size; with room again, the same command goes on."""
    expected, _ = whole
    generator, counts = random.Random(2), Counter[str]()
    folder = root / "full"
    for _ in range(12):
        shutil.rmtree(folder, ignore_errors=True)
        size = int(2 ** generator.uniform(9, 17))
        ended = forks.call("train", *flags(root, folder), watch=folder, file_size=size)
        assert "Traceback" not in ended.err, (size, ended.err)
        counts[f"exit code {ended.code}"] += 1
        if ended.code:
            assert ended.code == 2, (size, ended.err)
            assert len(lines_of_errors(ended)) == 1, (size, ended.err)
        ended = forks.call("train", *flags(root, folder), watch=folder)
        assert ended.code == 0, (size, ended.err)
        assert_same_run(folder / "run", expected / "run")
    print(dict(counts))
