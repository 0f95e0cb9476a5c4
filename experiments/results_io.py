"""Small JSON results that the repository keeps, one file a study or benchmark."""

import json
import pathlib
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "results"


def write(name: str, record: dict[str, Any]) -> pathlib.Path:
    """Writes results/NAME.json."""
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def read(name: str) -> dict[str, Any]:
    """Reads results/NAME.json."""
    record: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return record
