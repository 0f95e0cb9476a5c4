"""The log of a training."""

import pathlib
import time
from collections.abc import Callable

from maml_jax.errors import UsageError
from maml_jax.meta.train_step import COUNTS, FINITE_SHARE
from maml_jax.run.metrics import MetricWriter
from maml_jax.run.spec import RunSpec
from maml_jax.types import Metrics


def crossed(before: int, after: int, every: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]."""
    return before // every != after // every


class Progress:
    """The log of a run: means of metrics and sums of counts over log_every steps."""

    def __init__(
        self, spec: RunSpec, workdir: pathlib.Path, step: int, log: str | None, runs: int = 1
    ) -> None:
        """Goes on from a step.

        Args:
          spec: of the run.
          workdir: its folder.
          step: meta-steps done.
          log: see `MetricWriter`.
          runs: that share the time.
        """
        self._spec = spec
        self._step = step
        self._runs = runs
        self._writer = MetricWriter(workdir, step, log)
        self._start_interval()

    def _start_interval(self) -> None:
        self._started = time.perf_counter()
        self._sums: dict[str, float] = {}
        self._numbers: dict[str, int] = {}  # of meta-steps with the metric
        self._steps = 0

    def update(self, step: int, metrics: Metrics, summary: Callable[[], dict[str, float]]) -> None:
        """Adds the metrics of a dispatch; at the end of an interval writes them and a summary."""
        number = step - self._step
        for name, value in metrics.items():
            if value.ndim:
                raise UsageError(f"metric {name!r} has shape {value.shape}; give a scalar")
            weight = 1 if name in COUNTS else number
            self._sums[name] = self._sums.get(name, 0.0) + weight * float(value)
            self._numbers[name] = self._numbers.get(name, 0) + number
        self._steps += number
        if crossed(self._step, step, self._spec.log_every) or step == self._spec.num_meta_steps:
            self._write(step, summary())
        self._step = step

    def write_validation(self, step: int, values: dict[str, float]) -> None:
        """Logs a validation."""
        self._writer.write(step, values)

    def _write(self, step: int, summary: dict[str, float]) -> None:
        seconds = (time.perf_counter() - self._started) / self._runs
        means = {n: v if n in COUNTS else v / self._numbers[n] for n, v in self._sums.items()}
        means = {n: v for n, v in means.items() if v != 1 or not n.startswith(FINITE_SHARE)}
        speed = {"seconds": seconds, "meta_steps_per_second": self._steps / seconds}
        self._writer.write(step, means | speed | summary)
        self._start_interval()

    def packed_log(self) -> str:
        """The log, for a checkpoint."""
        return self._writer.packed_log()

    def close(self) -> None:
        """Flushes the log."""
        self._writer.close()
