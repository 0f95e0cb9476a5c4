"""Metrics of a run: metrics.jsonl for programs, TensorBoard events for people."""

import os
import pathlib
import time
from collections.abc import Iterator

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from maml_jax.run import files
from maml_jax.run.files import DamagedError, Record


def read_metrics(workdir: pathlib.Path) -> Iterator[Record]:
    """The lines of metrics.jsonl, without a last line that a kill has cut short.

    Raises:
      DamagedError: another line cannot be read.
    """
    path = workdir / "metrics.jsonl"
    *lines, rest = (files.read(path) or "").split("\n")
    for number, line in enumerate(lines, 1):
        try:
            yield _parsed(line, f"{path}, line {number},")
        except DamagedError as error:
            raise DamagedError(
                f"{error}; restore the file from a copy, or remove that line"
            ) from error
    try:
        yield _parsed(rest, path)
    except DamagedError:
        return


def _parsed(line: str, name: object) -> Record:
    record = files.loads(line, name)
    numbers = all(isinstance(value, int | float | None) for value in record.values())
    if not numbers or type(record.get("step")) is not int:
        raise DamagedError(f"{name} is no line of metrics")
    return record


class MetricWriter:
    """Appends to both from `step` on; what an interrupted run logged after that step is dropped.

    Attributes:
      lines: how many lines metrics.jsonl has.
    """

    def __init__(self, workdir: pathlib.Path, step: int) -> None:
        """Opens the files of workdir for a run that is at `step`.

        Raises:
          UsageError: they cannot be read or written.
        """
        kept = [files.dumps(line) + "\n" for line in read_metrics(workdir) if line["step"] <= step]
        self.lines = len(kept)
        self._path = workdir / "metrics.jsonl"
        files.write(self._path, "".join(kept))
        folder = workdir / "tensorboard"
        with files.writing(folder):
            folder.mkdir(exist_ok=True)
            # SummaryWriter writes in a thread, for which a run would wait forever on a full disk.
            self._events = EventsWriter(str(folder / "events"), f".{os.getpid()}.{step}")
        start = SessionLog(status=SessionLog.START)  # hides events of later steps
        self._write_event(Event(step=step + 1, session_log=start))

    def _write_event(self, event: Event) -> None:
        event.wall_time = time.time()
        self._events.write_event(event)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes one line, and one event for each value.

        Raises:
          UsageError: the files cannot be written.
        """
        with files.writing(self._path):
            with self._path.open("a", encoding="utf-8") as file:
                file.write(files.dumps({"step": step, **values}) + "\n")
            for name, value in values.items():
                self._write_event(Event(step=step, summary=scalar(name, value)))
        self.lines += 1

    def sync(self) -> None:
        """Waits until all is on the disk: what a checkpoint relies on is there before it."""
        with files.writing(self._path):
            with self._path.open("a", encoding="utf-8") as file:
                os.fsync(file.fileno())
            self._events.flush()

    def close(self) -> None:
        """Flushes the events."""
        with files.writing(self._path):
            self._events.close()
