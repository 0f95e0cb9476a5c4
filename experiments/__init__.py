"""Command-line programs: thin binaries over maml_jax."""

import contextlib
import os
import signal
import sys
from types import FrameType


def _stop(number: int, _: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"stopped before anything was begun\n")
    os._exit(128 + number)


# `python -m experiments.NAME` imports for seconds, in which Ctrl-C would print a traceback.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _stop)
