"""Time of variants in one process, and memory of compiled programs."""

import time
from collections.abc import Callable, Mapping

import jax


def temporary_megabytes(compiled: jax.stages.Compiled) -> float:
    """Temporary memory of a program, beside its inputs and outputs.

    Raises:
      RuntimeError: the backend does not say.
    """
    analysis = compiled.memory_analysis()
    if analysis is None:
        raise RuntimeError(f"{jax.default_backend()} has no memory analysis of its programs")
    return float(analysis.temp_size_in_bytes) / 1e6


def compare(variants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant in each round, in the order A B C A B C ...; one warm-up each."""
    for run in variants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return seconds
