"""Small JSON results that the repository keeps, one file a study or benchmark."""

import json
import pathlib
from typing import Any

from maml_jax.errors import UsageError

RESULTS = pathlib.Path(__file__).parent / "results"


def write(name: str, record: dict[str, Any]) -> pathlib.Path:
    """Writes results/NAME.json."""
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def read(name: str) -> dict[str, Any]:
    """Reads results/NAME.json.

    Raises:
      UsageError: there is no such result.
    """
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        kept = ", ".join(sorted(of.stem for of in RESULTS.glob("*.json")))
        raise UsageError(f"result {name!r} does not exist; there are: {kept}")
    record: dict[str, Any] = json.loads(path.read_text())
    return record
