"""Calls of the binaries in processes that may be killed, for one import of the package.

As a program it reads jobs, one JSON object a line, and answers each with a line: see `Forks`.
"""

import importlib
import json
import os
import pathlib
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

from tests.run.runs import ENVIRONMENT, ROOT

_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "fcntl.flock")


class Ended(NamedTuple):
    """How a call ended."""

    code: int  # -9 if it was killed
    out: str
    err: str
    events: list[str]  # paths of the operations on files under the watched folder, relative to it
    seconds: float


class Forks:
    """A process that forks for every call; it has imported the package, but started no JAX."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.campaigns.forks"],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(
        self,
        module: str,
        *arguments: str,
        watch: pathlib.Path,
        kill_at: int | None = None,
        kill_after: float | None = None,
        file_size: int | None = None,
    ) -> Ended:
        """Calls experiments.MODULE, and kills it with SIGKILL if asked to.

        Args:
          module: the name of the binary.
          *arguments: its flags.
          watch: folder whose file operations are counted.
          kill_at: number of the operation before which the process is killed.
          kill_after: seconds after which it is killed.
          file_size: bytes after which a write to a file fails, as on a full disk.
        """
        job = {"arguments": [module, *arguments], "watch": str(watch), "kill_at": kill_at}
        job |= {"kill_after": kill_after, "file_size": file_size}
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(job), file=self._process.stdin, flush=True)
        return Ended(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def _watch(folder: str, kill_at: int | None, report: Any) -> None:
    """Counts the operations on files of a folder, and kills this process before one of them."""
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in _EVENTS or not arguments or not isinstance(arguments[0], str | os.PathLike):
            return
        path = os.fspath(arguments[0])
        if not str(path).startswith(folder):
            return
        count += 1
        report.write(f"{os.path.relpath(str(path), folder)}\n")
        report.flush()
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _child(job: dict[str, Any], out: Any, err: Any, report: Any) -> None:
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8") for number in (1, 2))
    if job["file_size"] is not None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_size"],) * 2)
    _watch(job["watch"], job["kill_at"], report)
    module, *arguments = job["arguments"]
    sys.argv = [module, *arguments]
    runpy.run_module(f"experiments.{module}", run_name="__main__", alter_sys=True)
    sys.exit(0)


def _serve() -> None:
    for module in ("experiments.cli", "maml_jax.run.loop", "maml_jax.run.report"):
        importlib.import_module(module)
    for line in sys.stdin:
        job, begin = json.loads(line), time.monotonic()
        with (
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
            tempfile.TemporaryFile("w+") as report,
        ):
            child = os.fork()
            if child == 0:
                _child(job, out, err, report)
            if job["kill_after"] is not None:
                time.sleep(job["kill_after"])
                os.kill(child, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            seconds = time.monotonic() - begin
            texts = [(file.seek(0), file.read())[1] for file in (out, err, report)]
        ended = Ended(code, texts[0], texts[1], texts[2].splitlines(), seconds)
        print(json.dumps(ended._asdict()), flush=True)


def random_bytes_changed(data: bytes, how: str, generator: random.Random) -> bytes:
    """A file's content after a fault: "truncated", "zeroed" or "flipped"."""
    if how == "truncated":
        return data[: len(data) // 2]
    if how == "zeroed":
        return bytes(len(data))
    position, bit = generator.randrange(len(data)), generator.randrange(8)
    return data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :]


if __name__ == "__main__":
    _serve()
