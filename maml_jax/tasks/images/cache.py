"""The cache of processed data: folders that are written completely or not at all."""

import hashlib
import json
import logging
import os
import pathlib
import shutil
import tempfile
import zlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np

CACHE_DIR_VARIABLE = "MAML_JAX_CACHE_DIR"

T = TypeVar("T")
_log = logging.getLogger(__name__)


def find_cache_dir(cache_dir: str) -> pathlib.Path:
    """The argument if not empty, or else MAML_JAX_CACHE_DIR, or else ~/.cache/maml_jax."""
    folder = cache_dir or os.environ.get(CACHE_DIR_VARIABLE) or "~/.cache/maml_jax"
    return pathlib.Path(folder).expanduser()


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

    Args:
      folder: the entry.
      read: folder -> content. It raises ValueError, OSError, EOFError, KeyError or TypeError if
        the entry is damaged.
      write: writes the entry into an empty folder, which gets its name when it is complete.
    """
    if folder.is_dir():
        try:
            return read(folder)
        except (ValueError, OSError, EOFError, KeyError, TypeError) as error:
            _log.warning("the cache entry %s is damaged (%s): writing it again", folder, error)
            shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write(scratch)
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.is_dir():  # Otherwise another process wrote the same content first.
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return read(folder)
