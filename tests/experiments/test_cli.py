"""Arguments of the binaries, in one process."""

import pathlib
import sys

import pytest

from experiments import cli
from maml_jax.errors import UsageError

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


def test_compiled_programs_are_kept_where_that_is_possible(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setenv("MAML_JAX_CACHE_DIR", str(tmp_path))
    assert cli._programs_folder() == str(tmp_path / "programs")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MAML_JAX_CACHE_DIR", str(tmp_path / "file"))
    assert cli._programs_folder() is None
