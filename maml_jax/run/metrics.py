"""Metrics of a run: metrics.jsonl for programs, TensorBoard events for people."""

import base64
import contextlib
import os
import pathlib
import time
import zlib
from collections.abc import Iterator

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from maml_jax.run import files
from maml_jax.run.files import DamagedError, Record

_FLUSH_SECONDS = 60.0  # after which TensorBoard sees what is new


def read_metrics(workdir: pathlib.Path) -> Iterator[Record]:
    """The lines of metrics.jsonl, without a last line that a kill has cut short.

    Raises:
      DamagedError: another line cannot be read.
    """
    path = workdir / "metrics.jsonl"
    try:
        *lines, rest = (files.read(path) or "").split("\n")
        for number, line in enumerate(lines, 1):
            yield _parsed(line, f"{path}, line {number},")
    except DamagedError as error:
        raise DamagedError(
            f"{error}; restore it from a copy, or let the run's train command make it again"
        ) from error
    with contextlib.suppress(DamagedError):
        yield _parsed(rest, path)


def _parsed(line: str, name: object) -> Record:
    record = files.loads(line, name)
    numbers = all(isinstance(value, int | float | None) for value in record.values())
    if not numbers or type(record.get("step")) is not int:
        raise DamagedError(f"{name} is no line of metrics")
    return record


class MetricWriter:
    """Appends to both from `step` on; what an interrupted run logged after that step is dropped."""

    def __init__(self, workdir: pathlib.Path, step: int, log: str | None = None) -> None:
        """Opens the files of workdir for a run that is at `step`.

        Args:
          workdir: folder of the run.
          step: meta-steps done.
          log: what `packed_log` gave at that step; None takes the lines from metrics.jsonl.

        Raises:
          UsageError: the files cannot be read or written.
        """
        self._path = workdir / "metrics.jsonl"
        self._log = ""
        if log is not None:
            self._log = zlib.decompress(base64.b64decode(log)).decode()
        elif step:
            kept = [line for line in read_metrics(workdir) if line["step"] <= step]
            self._log = "".join(files.dumps(line) + "\n" for line in kept)
        folder = workdir / "tensorboard"
        with files.writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # SummaryWriter writes in a thread, for which a run would wait forever on a full disk.
            self._events = EventsWriter(str(folder / "events"), f".{os.getpid()}.{step}")
        files.write(self._path, self._log)
        self._next_flush = 0.0
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
        line = files.dumps({"step": step, **values}) + "\n"
        with files.writing(self._path):
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line)
            for name, value in values.items():
                self._write_event(Event(step=step, summary=scalar(name, value)))
            if time.monotonic() > self._next_flush:
                self._events.flush()
                self._next_flush = time.monotonic() + _FLUSH_SECONDS
        self._log += line

    def packed_log(self) -> str:
        """All lines, for a checkpoint: metrics.jsonl can then be made again."""
        return base64.b64encode(zlib.compress(self._log.encode())).decode()

    def close(self) -> None:
        """Flushes the events."""
        with files.writing(self._path):
            self._events.close()
