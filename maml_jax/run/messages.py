"""Messages to the user while a run is under way."""

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def note(message: str) -> None:
    """Prints a line on stderr, above a progress bar if there is one."""
    tqdm.write(message, sys.stderr)


def evaluating(parts: Sequence[T]) -> Iterable[T]:
    """Iterates under a progress bar, which a terminal shows as long as it takes."""
    few = len(parts) < 2
    bar: Iterable[T] = tqdm(
        parts, "evaluating", unit=" parts", leave=False, disable=True if few else None
    )
    return bar
