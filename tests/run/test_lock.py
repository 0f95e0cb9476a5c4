"""A run's folder has one writer at a time."""

import os
import pathlib

import pytest

from maml_jax.errors import UsageError
from maml_jax.run.lock import locked


def test_a_folder_has_one_writer(tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / "run"
    with locked(workdir):
        with (
            pytest.raises(UsageError, match=rf"in use by process {os.getpid()};"),
            locked(workdir),
        ):
            pass
        with locked(workdir / "pretrained"):
            pass
    ended, alive = (workdir / f".evaluation.json.{pid}.tmp" for pid in (2**30, os.getpid()))
    ended.touch()
    alive.touch()
    with locked(workdir):
        assert not ended.exists()
        assert alive.exists()
