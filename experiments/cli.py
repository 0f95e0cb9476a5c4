"""What all binaries share: errors as one line, exit codes, checked config flags."""

import pathlib
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging

from maml_jax.config import check_key
from maml_jax.errors import UsageError
from maml_jax.training import Interrupted


def define_workdir() -> flags.FlagHolder:
    """The --workdir flag."""
    return flags.DEFINE_string(
        "workdir", None, "folder of the run: config, checkpoints, metrics, report", required=True
    )


def _check_config_flags(arguments: list[str]) -> None:
    """Checks config keys before ml_collections, whose messages are tracebacks."""
    for argument in arguments:
        name, _, value = argument.lstrip("-").partition("=")
        if name == "config" and not pathlib.Path(value.partition(":")[0]).exists():
            cards = ", ".join(sorted(str(p) for p in pathlib.Path("configs").glob("[a-z]*.py")))
            raise UsageError(f"config file {value!r} does not exist; there are: {cards}")
        if name.startswith("config."):
            check_key(name.removeprefix("config."))


def run(main: Callable[[list[str]], Any]) -> None:
    """app.run, with usage errors as one line on stderr and exit code 2."""

    def guarded(arguments: list[str]) -> None:
        try:
            main(arguments)
        except UsageError as error:
            sys.exit(_report(error, 2))
        except Interrupted as stop:
            sys.exit(_report(stop, stop.code))

    logging.set_verbosity(logging.WARNING)
    try:
        _check_config_flags(sys.argv[1:])
        app.run(guarded)
    except UsageError as error:
        sys.exit(_report(error, 2))


def _report(message: Exception, code: int) -> int:
    print(f"{'error: ' if code == 2 else ''}{message}", file=sys.stderr)
    return code
