"""Folders of runs that this version did not make, or that something has spoilt."""

import json
import pathlib
from collections.abc import Callable

import pytest

from maml_jax.errors import UsageError
from maml_jax.run.config import RENAMED, flatten
from maml_jax.run.files import DamagedError
from maml_jax.run.metrics import MetricWriter, read_metrics
from maml_jax.run.workdir import (
    EVALUATED_WITH,
    is_evaluated,
    load_run,
    open_workdir,
    read_config,
    read_evaluation,
    write_evaluation,
)
from tests.run.runs import tiny_config
from tests.run.test_checkpoint import write as write_checkpoints


def write_config(workdir: pathlib.Path, changes: dict[str, object]) -> bytes:
    values = dict(flatten(tiny_config())) | changes
    nested: dict = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = value
    (workdir / "config.json").write_text(json.dumps(nested))
    return (workdir / "config.json").read_bytes()


OLD = {"inner.learning_rate": 0.01, "halting.gate": "none", "references": []}
READERS: tuple[Callable[[pathlib.Path], object], ...] = (
    read_config,
    load_run,
    lambda folder: open_workdir(tiny_config(), folder),
)


@pytest.mark.parametrize("key", OLD)
def test_a_run_of_version_0_1_is_refused_with_the_reason_and_left_alone(
    tmp_path: pathlib.Path, key: str
) -> None:
    before = write_config(tmp_path, {key: OLD[key]})
    section, _, name = key.partition(".")
    new = RENAMED.get(key) or f"{RENAMED[section]}.{name}"
    message = f"holds a run of maml_jax 0.1 .*{key!r}, which is called {new!r} now.* version 0.1"
    for read in READERS:
        with pytest.raises(UsageError, match=message):
            read(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before


def test_an_unknown_key_is_named(tmp_path: pathlib.Path) -> None:
    write_config(tmp_path, {"inner.num_stesp": 3})
    with pytest.raises(UsageError, match=r"inner\.num_stesp.*did you mean inner\.num_steps"):
        read_config(tmp_path)


def test_a_config_of_another_module_is_not_called_damaged(tmp_path: pathlib.Path) -> None:
    write_config(tmp_path, {"my_net.width": 3})
    with pytest.raises(UsageError, match=r"section 'my_net', use --import=MODULE$"):
        read_config(tmp_path)


SPOILT = {
    "empty": b"",
    "cut": b'{"seed": 0, "task": {"na',
    "a list": b"[]",
    "zeros": bytes(40),
    "latin-1": '{"task": {"name": "é"}}'.encode("latin-1"),
    "a wrong type": b'{"seed": "many"}',
    "a wrong section": b'{"task": 3}',
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_config_that_cannot_be_used_is_one_line(tmp_path: pathlib.Path, kind: str) -> None:
    (tmp_path / "config.json").write_bytes(SPOILT[kind])
    for read in READERS:
        with pytest.raises(UsageError) as caught:
            read(tmp_path)
        assert len(str(caught.value).splitlines()) == 1
        assert "config.json" in str(caught.value)
    assert (tmp_path / "config.json").read_bytes() == SPOILT[kind]


def test_without_its_config_a_run_goes_on_with_the_same_config_only(
    tmp_path: pathlib.Path,
) -> None:
    write_checkpoints(tmp_path / "checkpoints", 20)
    with pytest.raises(UsageError, match=r"another config \(seed: 0 -> 1\)"):
        open_workdir(tiny_config(seed=1), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    open_workdir(tiny_config(), tmp_path)
    assert read_config(tmp_path) == tiny_config()


def record_with(shots: int, loss: float) -> dict[str, object]:
    return {**dict.fromkeys(EVALUATED_WITH, 5), "shots": shots, "loss": [loss]}


def evaluations(workdir: pathlib.Path) -> dict[str, float]:
    return {path.name: json.loads(path.read_text())["loss"][0] for path in workdir.iterdir()}


def test_an_evaluation_with_other_settings_is_kept_beside_the_new_one(
    tmp_path: pathlib.Path,
) -> None:
    # The third has the settings of the second, which it replaces.
    for shots, loss in ((10, 3.0), (5, 2.0), (5, 1.0)):
        write_evaluation(tmp_path, record_with(shots, loss))
    assert evaluations(tmp_path) == {"evaluation_1.json": 3.0, "evaluation.json": 1.0}


def test_a_kept_evaluation_is_never_overwritten(tmp_path: pathlib.Path) -> None:
    for shots, loss in ((10, 3.0), (5, 2.0), (20, 1.0)):
        write_evaluation(tmp_path, record_with(shots, loss))
    (tmp_path / "evaluation_1.json").unlink()  # the number of files no longer is the next name
    write_evaluation(tmp_path, record_with(30, 0.5))
    write_evaluation(tmp_path, record_with(40, 0.25))
    names = {"evaluation_2.json": 2.0, "evaluation_1.json": 1.0, "evaluation_3.json": 0.5}
    assert evaluations(tmp_path) == names | {"evaluation.json": 0.25}


@pytest.mark.parametrize("spoilt", [b"", b'{"loss": [1', b"[]", b"\xff\xfe"])
def test_an_evaluation_that_cannot_be_read_is_made_again(
    tmp_path: pathlib.Path, spoilt: bytes
) -> None:
    path = tmp_path / "evaluation.json"
    path.write_bytes(spoilt)
    assert not is_evaluated(tmp_path)
    with pytest.raises(DamagedError, match="train command makes it again"):
        read_evaluation(tmp_path)
    write_evaluation(tmp_path, record_with(5, 1.0))
    assert read_evaluation(tmp_path) == record_with(5, 1.0)
    kept = tmp_path / "evaluation_1.json"
    assert kept.read_bytes() == spoilt if spoilt else not kept.exists()


def test_metrics_after_the_resume_point_are_dropped(tmp_path: pathlib.Path) -> None:
    writer = MetricWriter(tmp_path, 0)
    for step in (10, 20, 30):
        writer.write(step, {"loss": float(step), "validation_loss": float("nan")})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')
    MetricWriter(tmp_path, 20).close()
    assert [line["step"] for line in read_metrics(tmp_path)] == [10, 20]
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


LINES = [b'{"step": 20, "lo', b"3", b'{"loss": 1}', b'{"step": 20, "loss": "low"}', b"\xff"]


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_metrics_that_cannot_be_read_is_named_and_kept(
    tmp_path: pathlib.Path, line: bytes
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 10}\n' + line + b'\n{"step": 30}\n')
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"metrics.jsonl(, line 2,| is not UTF-8).*; restore it"):
        MetricWriter(tmp_path, 30)
    assert path.read_bytes() == before
