"""Messages to the user while a run is under way."""

import sys

from tqdm import tqdm


def note(message: str) -> None:
    """Prints a line on stderr, above a progress bar if there is one."""
    tqdm.write(message, sys.stderr)
