"""Files of a run: whole or not at all, JSON without bare NaN, one writer."""

import errno
import json
import math
import os
import pathlib

import pytest

from maml_jax.errors import UsageError
from maml_jax.run import files
from maml_jax.run.files import DamagedError


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_what_was_there(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "evaluation.json"
    files.write(path, "before ±")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (pathlib.Path, "replace")), full)
    with pytest.raises(UsageError, match=r"evaluation.json cannot be written \(No space left"):
        files.write(path, "after")
    assert files.read(path) == "before ±"
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_utf_8_whatever_it_holds(tmp_path: pathlib.Path) -> None:
    files.write(tmp_path / "text", "± \udcff")
    assert (tmp_path / "text").read_bytes() == b"\xc2\xb1 \\udcff"
    assert files.read(tmp_path / "nothing") is None
    (tmp_path / "text").write_bytes("±".encode("latin-1"))
    with pytest.raises(DamagedError, match="text is not UTF-8"):
        files.read(tmp_path / "text")
    with pytest.raises(UsageError, match="cannot be read") as caught:
        files.read(tmp_path)
    assert not isinstance(caught.value, DamagedError)


def test_numbers_that_are_not_finite_are_null_with_the_reason_beside() -> None:
    record = {
        "loss": [0.5, math.nan, -math.inf],
        "soft": {"loss": math.inf, "steps": 3},
        "rows": [{"a/b": math.nan}, [[1.0, math.nan]]],
        "weights_not_finite": 0.25,
    }
    text = files.dumps(record)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    plain = json.loads(text, parse_constant=refuse)
    assert plain["loss"] == [0.5, None, None]
    assert plain["loss_not_finite"] == {"1": "nan", "2": "-inf"}
    assert plain["soft"] == {"loss": None, "steps": 3, "loss_not_finite": "inf"}
    assert repr(files.loads(text, "")) == repr(record)
    assert math.isnan(files.loads('{"loss": NaN}', "")["loss"])  # as older runs wrote it


BROKEN = ["", "{", "[1]", "3", "null", "[" * 100_000, '{"a": null, "a_not_finite": "x"}']


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_what_is_no_json_object_is_named(text: str) -> None:
    with pytest.raises(DamagedError, match=r"^here holds no"):
        files.loads(text, "here")


@pytest.mark.parametrize("folder", ["", "gs://bucket/run", "file:///tmp/run", "s3:/bucket"])
def test_a_workdir_that_is_no_folder_is_refused(folder: str) -> None:
    with pytest.raises(UsageError, match="workdir"):
        files.local_folder(folder)


def test_a_workdir_may_be_below_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of/someone")
    assert files.local_folder("~/run") == pathlib.Path("/home/of/someone/run")
    assert files.local_folder("runs/a:b") == pathlib.Path("runs/a:b")

    def unknown(_: object) -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "expanduser", unknown)
    with pytest.raises(UsageError, match="without ~"):
        files.local_folder("~/run")
