"""The lock of a run's folder, which keeps a second process from writing it."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from maml_jax.errors import UsageError
from maml_jax.run.files import TEMPORARY, writing


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Makes a folder and holds its lock, which the kernel releases when the process ends.

    Raises:
      UsageError: another process holds the lock, or the folder cannot be written.
    """
    path = workdir / ".lock"
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UsageError(
                f"workdir {workdir} is in use by process {file.read().strip()}; wait "
                "until it ends, or use another --workdir"
            ) from error
        except OSError:  # a file system without locks
            pass
        with contextlib.suppress(OSError):
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            _remove_temporaries(workdir)
        yield


def _remove_temporaries(workdir: pathlib.Path) -> None:
    """Removes what killed processes have left half written."""
    for path in workdir.iterdir():
        match = TEMPORARY.fullmatch(path.name)
        if match and not pathlib.Path(f"/proc/{match[1]}").exists():
            path.unlink(missing_ok=True)
