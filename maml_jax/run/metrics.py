"""Metrics of a run: metrics.jsonl for programs, TensorBoard events for people."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

from tensorboardX import SummaryWriter


def read_metrics(workdir: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl, without a last line that a kill has cut short."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


class MetricWriter:
    """Appends to both from `step` on; what an interrupted run logged after that step is dropped."""

    def __init__(self, workdir: pathlib.Path, step: int) -> None:
        """Opens the files of workdir for a run that is at `step`."""
        kept = [line for line in read_metrics(workdir) if line["step"] <= step]
        self._path = workdir / "metrics.jsonl"
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        temporary.replace(self._path)
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes one line, and one event for each value."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes the events."""
        self._events.close()
