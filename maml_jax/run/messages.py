"""Messages to the user while a run is under way."""

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

from tqdm import tqdm

from maml_jax.parallel.hosts import is_writer

T = TypeVar("T")


def note(message: str) -> None:
    """Prints a line on stderr, above a progress bar if there is one; of several processes, once."""
    if is_writer():
        tqdm.write(message, sys.stderr)


def evaluating(parts: Sequence[T]) -> Iterable[T]:
    """Iterates under a progress bar, which a terminal shows as long as it takes."""
    hidden = len(parts) < 2 or not is_writer()
    bar: Iterable[T] = tqdm(
        parts, "evaluating", unit=" parts", leave=False, disable=True if hidden else None
    )
    return bar
