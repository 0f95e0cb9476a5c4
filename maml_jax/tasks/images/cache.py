"""The cache of processed data: folders that are written completely or not at all, and checked."""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

CACHE_DIR_VARIABLE = "MAML_JAX_CACHE_DIR"
CHECKSUMS = "checksums.json"  # of the other files of an entry
_SCRATCH = re.compile(r"\.\w+-[0-9a-f]{16}-[a-z0-9_]{8}")  # entries end with a digest
_CHUNK = 2**20  # bytes read at once, which the processor's cache holds
# What a damaged entry makes of reading it; other errors of the system are not damage.
_DAMAGE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    EOFError,
    FileNotFoundError,
    NotADirectoryError,
    IsADirectoryError,
)

T = TypeVar("T")
_log = logging.getLogger(__name__)


def find_cache_dir(cache_dir: str) -> pathlib.Path:
    """The argument if not empty, or else MAML_JAX_CACHE_DIR, or else ~/.cache/maml_jax.

    Raises:
      ValueError: it is in the home folder, and there is none.
    """
    folder = cache_dir or os.environ.get(CACHE_DIR_VARIABLE) or "~/.cache/maml_jax"
    return expand_home(folder, f"data.cache_dir or {CACHE_DIR_VARIABLE}")


def expand_home(path: str, setting: str) -> pathlib.Path:
    """Replaces ~ by the home folder.

    Raises:
      ValueError: there is no home folder; the message names the setting.
    """
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"{path} cannot be found, as there is no home folder; set {setting} to a folder "
            "without ~, or set HOME"
        ) from error


def crc32(array: np.ndarray) -> int:
    """Checksum of the elements of an array."""
    return zlib.crc32(np.ascontiguousarray(array).data)


def digest(value: object) -> str:
    """Sixteen hex digits that identify a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def read_or_write(
    folder: pathlib.Path,
    read: Callable[[pathlib.Path], T],
    write: Callable[[pathlib.Path], None],
) -> T:
    """Reads a cache entry, which is written first if it is absent or damaged.

    The checksums of all files are compared before they are read.

    Args:
      folder: the entry.
      read: folder -> content.
      write: writes the files of the entry into an empty folder, which gets its name when it is
        complete.

    Raises:
      ValueError: the cache cannot be read or written.
    """
    try:
        if os.path.lexists(folder):
            try:
                _compare_checksums(folder)
                return read(folder)
            except _DAMAGE as error:
                _log.warning("the cache entry %s is damaged (%s): writing it again", folder, error)
                _remove(folder)
        with _scratch_folder(folder) as scratch:
            write(scratch)
            _write_checksums(scratch)
            try:
                scratch.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
                _compare_checksums(folder)  # Another process wrote the same content first.
            _sync(folder.parent)
        return read(folder)
    except OSError as error:
        raise ValueError(
            f"the cache {folder.parent} cannot be used ({error}); make room and allow writing "
            f"there, or set data.cache_dir or {CACHE_DIR_VARIABLE} to another folder"
        ) from error


def _compare_checksums(folder: pathlib.Path) -> None:
    checksums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    if checksums.keys() != {file.name for file in folder.iterdir()} - {CHECKSUMS}:
        raise ValueError("it has other files than were written")
    for name, checksum in checksums.items():
        if _crc32_of_file(folder / name) != checksum:
            raise ValueError(f"the checksum of {name} differs")


def _write_checksums(folder: pathlib.Path) -> None:
    checksums = {file.name: _crc32_of_file(file) for file in folder.iterdir()}
    (folder / CHECKSUMS).write_text(json.dumps(checksums), encoding="utf-8")
    for path in (*folder.iterdir(), folder):
        _sync(path)


def _crc32_of_file(file: pathlib.Path) -> int:
    # Reading reports a bad sector as an OSError, where a memory map would end the process.
    checksum = 0
    with file.open("rb", buffering=0) as opened:
        while chunk := opened.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sync(path: pathlib.Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    with _opened(path) as descriptor:
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # Some file systems cannot do it for folders.
                raise


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Locks a folder until it is closed, also by the end of the process."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # In use, or on a file system without locks.
        return False
    return True


@contextlib.contextmanager
def _scratch_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """An empty folder beside an entry, locked while its writer lives.

    Those that killed writers left are removed. They are not locked, and as the folder around them
    is, no other process is between making one and locking it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with _opened(folder.parent) as parent:
            if _lock(parent, wait=True):
                _remove_abandoned(folder.parent)
            scratch = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            stack.callback(shutil.rmtree, scratch, ignore_errors=True)
            _lock(stack.enter_context(_opened(scratch)), wait=True)
        yield scratch


def _remove_abandoned(parent: pathlib.Path) -> None:
    for path in parent.iterdir():
        if _SCRATCH.fullmatch(path.name) and path.is_dir():
            with _opened(path) as descriptor:
                if _lock(descriptor, wait=False):
                    shutil.rmtree(path, ignore_errors=True)


def _remove(path: pathlib.Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # Another process may remove it as well.
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
