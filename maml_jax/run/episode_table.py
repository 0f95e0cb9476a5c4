"""The values of every test episode, as a table in a file."""

import csv
import io
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from maml_jax.errors import UsageError
from maml_jax.meta.evaluate import DIVERGED, PerEpisode, diverged
from maml_jax.run import files
from maml_jax.run.files import Record


class EpisodeTable:
    """One row for each test episode, in a CSV or JSON file."""

    def __init__(self, path: pathlib.Path) -> None:
        """Raises a UsageError if the path does not say which."""
        if path.suffix not in (".csv", ".json"):
            raise UsageError(f"--output={path} is neither a .csv nor a .json file; use one of them")
        self._path = path

    def write(
        self, record: Record, episodes: Mapping[str, PerEpisode], factor: float = DIVERGED
    ) -> None:
        """Writes the file whole.

        Args:
          record: the evaluation, which goes into a JSON file.
          episodes: parameters (last, selected) -> {"loss" and metrics: [episodes, K+1]}.
          factor: see `maml_jax.meta.evaluate.diverged`.

        Raises:
          UsageError: the file cannot be written.
        """
        rows = [row for name, of in episodes.items() for row in _rows(name, of, factor)]
        if self._path.suffix == ".json":
            text = files.dumps({"evaluation": record, "episodes": rows}) + "\n"
        else:
            text = _as_csv(rows)
        files.write(self._path, text)


def _rows(parameters: str, per_episode: PerEpisode, factor: float) -> Iterator[dict[str, Any]]:
    values = {name: np.asarray(of).tolist() for name, of in per_episode.items()}
    losses = np.asarray(per_episode["loss"], np.float64)
    for episode, is_diverged in enumerate(diverged(losses, factor)):
        row = {"parameters": parameters, "episode": episode, "diverged": bool(is_diverged)}
        yield row | {name: of[episode] for name, of in values.items()}


def _as_csv(rows: list[dict[str, Any]]) -> str:
    """A column for each number: loss after step 3 is loss_3."""
    text = io.StringIO()
    flat = [dict(_flat(row)) for row in rows]
    writer = csv.DictWriter(text, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flat(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, list):
            yield from ((f"{name}_{k}", of) for k, of in enumerate(value))
        else:
            yield name, value
