"""Flags of a run on several hosts, and a process that ends with one line if another one fails."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import IO

from absl import flags

from experiments.process import LOST
from maml_jax.parallel import hosts

DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "one of several processes that train one run on the devices of all. Under SLURM, Open MPI, "
    "Kubernetes or on a TPU pod they find each other; elsewhere give the three flags below",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of the first process, for --distributed"
)
PROCESSES = flags.DEFINE_integer(
    "processes", None, "number of processes, for --distributed", lower_bound=1
)
PROCESS = flags.DEFINE_integer(
    "process", None, "index of this process from 0, for --distributed", lower_bound=0
)
_CHILD = "MAML_JAX_SUPERVISED"  # set in the process that works
_ABORTS = (b"Terminating process because", b"coordination_service", b"*** Check failure")
_LOST = (
    "error: another process of this run has ended, or the coordinator does not answer; the last "
    "checkpoint is kept, and the same commands on all hosts, or on another number, resume\n"
)


def start() -> None:
    """Joins the other processes if --distributed is set."""
    if DISTRIBUTED.value:
        hosts.keep_stdout()
        hosts.start(COORDINATOR.value, PROCESSES.value, PROCESS.value)


def is_supervised() -> bool:
    """Whether this process works for one that waits for it."""
    return _CHILD in os.environ


def is_distributed(arguments: list[str]) -> bool:
    """Whether the command line asks for several hosts, before absl parses it."""
    return any(of in ("--distributed", "--distributed=true", "-distributed") for of in arguments)


def supervise(module: str) -> int:
    """Runs this command line in a child, which JAX aborts where another process is lost.

    Returns:
      Its exit code; 2, after one line, if it was aborted.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", module, *sys.argv[1:]],
        env=os.environ | {_CHILD: "1"},
        stderr=subprocess.PIPE,
    )
    assert child.stderr is not None
    aborts = list[bytes]()
    reader = threading.Thread(target=_pass_on, args=(child.stderr, aborts), daemon=True)
    reader.start()
    with _forwarding_signals(child):
        code = child.wait()
    reader.join(timeout=1)
    if code == 0 or not (aborts or code in (-signal.SIGABRT, LOST)):
        return 128 - code if code < 0 else code
    os.write(2, _LOST.encode())
    return 2


def _pass_on(stream: IO[bytes], aborts: list[bytes]) -> None:
    """Copies what the child writes up to the pages of JAX's abort, which go into a list."""
    written = b""
    while data := os.read(stream.fileno(), 2**16):
        written += data
        if aborts or any(of in written for of in _ABORTS):
            aborts.append(data)
        else:
            os.write(2, data)
        written = written[-(2**16) :]


@contextmanager
def _forwarding_signals(child: "subprocess.Popen[bytes]") -> Iterator[None]:
    def forward(number: int, _: FrameType | None) -> None:
        child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
