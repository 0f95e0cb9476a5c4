"""A record says how its run was made."""

import pathlib
import sys

import pytest

from maml_jax.run import provenance


def test_the_commands_of_a_run_are_those_that_changed_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "module", lambda: "experiments.train")
    first = ["--config=configs/glyphs.py", f"--workdir={tmp_path}"]
    more = [f"--workdir={tmp_path}", "--config.num_meta_steps=200"]
    for arguments in (first, first, [f"--workdir={tmp_path}"], more, first):
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        provenance.note_command(tmp_path)
    made = [f"python -m experiments.train {' '.join(arguments)}" for arguments in (first, more)]
    assert provenance.commands(tmp_path) == made
