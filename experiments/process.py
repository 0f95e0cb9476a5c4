"""The process of a binary: its output streams, its --workdir, and one line where it fails."""

import contextlib
import io
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

import jax
from absl import flags

from maml_jax.errors import UsageError
from maml_jax.parallel.hosts import number_of_processes
from maml_jax.run.files import local_folder
from maml_jax.run.loop import Interrupted

LOST = 75  # the exit code of a process that has lost another one; see experiments.hosts


class FolderParser(flags.ArgumentParser[str]):
    """Folders of this machine, with ~ expanded."""

    def parse(self, argument: str) -> str:
        """Returns the path; absl names the flag where it raises a ValueError."""
        return str(local_folder(argument))

    def flag_type(self) -> str:
        """Returns what --help calls the value."""
        return "string"


class _Forgiving:
    """A stream whose reader may go away: training goes on without it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def prepare_streams() -> None:
    """Lets the process write whatever its streams are: closed, ASCII, or a pipe that ends."""
    for number in (0, 1, 2):  # a file that got such a number would be written by accident
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stderr = _Forgiving(sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False))


def report(message: object, code: int) -> int:
    """Prints a line on stderr; returns the exit code."""
    print(f"{'error: ' if code == 2 else ''}{message}", file=sys.stderr)
    return code


@contextlib.contextmanager
def ending_in_one_line() -> Iterator[None]:
    """Ends the process with one line and an exit code where the work inside fails.

    2 is for what the user or the system has to change, 128 + a signal's number for a stop.
    """
    before = {
        number: signal.signal(number, _end_at_once)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except UsageError as error:
        _leave_at_once(report(error, 2))
    except Interrupted as stop:
        sys.exit(report(stop, stop.code))
    except jax.errors.JaxRuntimeError:
        if number_of_processes() == 1:
            raise
        _leave_at_once(LOST)
    except OSError as error:
        _drop_output()
        if isinstance(error, BrokenPipeError):  # as after `| head -1`
            sys.exit(141)
        sys.exit(report(error, 2))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_at_once(code: int) -> NoReturn:
    """Of several processes, one that fails does not wait for the others, which then end as well."""
    if number_of_processes() > 1:
        os._exit(code)
    sys.exit(code)


def _end_at_once(number: int, _: FrameType | None) -> None:
    """What is written is written whole; a KeyboardInterrupt may be lost or crash a compilation."""
    for process in multiprocessing.active_children():
        process.terminate()
    with contextlib.suppress(OSError):
        os.write(2, b"stopped; what was saved is kept, and the same command goes on\n")
    os._exit(128 + number)


def _drop_output() -> None:
    """Else the interpreter would try again to write it, and fail with lines of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
