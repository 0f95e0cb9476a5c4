"""Arguments of the binaries, in one process."""

import logging
import pathlib
import subprocess
import sys

import absl.logging
import jax
import pytest

import maml_jax
from experiments import cli
from maml_jax.errors import UsageError
from tests.run.runs import ROOT

BAD_CARDS = {
    "x = 1": "has no function get_config()",
    "1 / 0": "ZeroDivisionError in line 1 of card.py: division by zero",
    "\n\nif:": "SyntaxError in line 3",
    "def get_config():\n    raise KeyError('k')": "KeyError in line 2 of card.py: 'k'",
    "def get_config():\n    return {}": "returns dict; return a ConfigDict",
    "def get_config(variant):\n    pass": "missing 1 required positional argument",
}


@pytest.mark.parametrize("text", BAD_CARDS)
def test_a_card_that_cannot_be_used_is_named(tmp_path: pathlib.Path, text: str) -> None:
    card = tmp_path / "card.py"
    card.write_text(text)
    with pytest.raises(UsageError) as error:
        cli._check_card(str(card))
    message = str(error.value)
    assert message.startswith(("config file", "get_config() of"))
    assert str(card) in message
    assert BAD_CARDS[text] in message
    assert "\n" not in message


def test_the_last_of_two_tuples_counts() -> None:
    given = ["train", "--config.model.hidden=(4,)", "--config.seed=1", "--config.model.hidden", "5"]
    assert cli._without_repeated_tuples(given) == [
        "train",
        "--config.seed=1",
        "--config.model.hidden=5",
    ]


def test_an_argument_without_dashes_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "config.seed=3"])
    monkeypatch.setattr(cli, "prepare_jax", lambda: None)
    # Other tests may have imported binaries, whose flags are required.
    monkeypatch.setattr(cli.app, "run", lambda main, flags_parser: main(sys.argv))
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda arguments: None)
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "error: unexpected argument 'config.seed=3'; flags begin with --\n"
    )


def test_version_prints_what_a_report_of_an_issue_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("MAML_JAX_COMMIT", "abc123")
    with pytest.raises(SystemExit) as stop:
        cli._parse(["train", "--version"])  # though --workdir is required
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"maml_jax {maml_jax.__version__}, commit abc123"
    assert f"jax {jax.__version__}" in lines[1]
    assert "CPU cores" in lines[3]
    assert "JAX_PLATFORMS=cpu" in lines


def test_messages_of_the_library_appear_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The import of orbax adds a handler beside that of absl."""
    monkeypatch.setattr(logging.root, "handlers", [logging.StreamHandler()])
    monkeypatch.setattr(absl.logging, "_attempted_to_remove_stderr_stream_handlers", False)
    monkeypatch.setattr(absl.logging, "_warn_preinit_stderr", 0)  # the flags are not parsed here
    monkeypatch.setattr(absl.logging.get_absl_handler().python_handler, "stream", sys.stderr)
    monkeypatch.setattr(cli, "prepare_jax", lambda: None)
    monkeypatch.setattr(cli.app, "run", lambda main, flags_parser: main(["train"]))
    cli.run(lambda _: logging.getLogger("maml_jax.tasks").warning("left out: 1 file"))
    assert capsys.readouterr().err == "left out: 1 file\n"


def test_ctrl_c_while_a_binary_imports_is_one_line() -> None:
    """`python -m` imports the package experiments first."""
    code = "import sys; sys.argv[0] = '-m'; import experiments, signal; signal.raise_signal(2)"
    arguments = [sys.executable, "-c", code]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (130, "stopped before anything was begun\n")


def test_compiled_programs_are_kept_where_that_is_possible(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setenv("MAML_JAX_CACHE_DIR", str(tmp_path))
    assert cli._programs_folder() == str(tmp_path / "programs")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MAML_JAX_CACHE_DIR", str(tmp_path / "file"))
    assert cli._programs_folder() is None
