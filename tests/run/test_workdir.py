"""Folders of runs that this version did not make."""

import json
import pathlib

import pytest

from maml_jax.errors import UsageError
from maml_jax.run.config import RENAMED, flatten
from maml_jax.run.workdir import load_run, open_workdir, read_config
from tests.run.runs import tiny_config


def write_config(workdir: pathlib.Path, changes: dict[str, object]) -> bytes:
    values = dict(flatten(tiny_config())) | changes
    nested: dict = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = value
    (workdir / "config.json").write_text(json.dumps(nested))
    return (workdir / "config.json").read_bytes()


OLD = {"inner.learning_rate": 0.01, "halting.gate": "none", "references": []}


@pytest.mark.parametrize("key", OLD)
def test_a_run_of_version_0_1_is_refused_with_the_reason_and_left_alone(
    tmp_path: pathlib.Path, key: str
) -> None:
    before = write_config(tmp_path, {key: OLD[key]})
    section, _, name = key.partition(".")
    new = RENAMED.get(key) or f"{RENAMED[section]}.{name}"
    message = f"holds a run of maml_jax 0.1 .*{key!r}, which is called {new!r} now.* version 0.1"
    for read in (read_config, load_run, lambda folder: open_workdir(tiny_config(), folder)):
        with pytest.raises(UsageError, match=message):
            read(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before


def test_an_unknown_key_is_named(tmp_path: pathlib.Path) -> None:
    write_config(tmp_path, {"inner.num_stesp": 3})
    with pytest.raises(UsageError, match=r"inner\.num_stesp.*did you mean inner\.num_steps"):
        read_config(tmp_path)
