"""Ten seeds as one population against a single run, as the commands train them.

Both are called in a process of their own, from the first import to the evaluation, without compiled
programs of earlier calls. The time of ten seeds is given in times of a single one.

python -m experiments.benchmarks.populations
python -m experiments.benchmarks.populations --cases=sinusoid --seeds=4 --steps=100 --nokeep
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from absl import flags

from experiments import cli
from experiments.publish import results
from maml_jax.errors import UsageError
from maml_jax.run import provenance
from maml_jax.run.files import Record


class Case(NamedTuple):
    """A card and the meta-steps that are timed."""

    card: str
    steps: int


CASES = {
    "sinusoid": Case("configs/sinusoid.py", 8_000),
    "adaptive_k": Case("configs/sinusoid.py:adaptive_k", 2_000),
    "omniglot": Case("configs/omniglot.py:5way_1shot_cpu", 40),
}
NAME = "population_speed"
_CASES = flags.DEFINE_list("cases", list(CASES), f"of {', '.join(CASES)}")
_SEEDS = flags.DEFINE_integer("seeds", 10, "members of the population", lower_bound=2)
_STEPS = flags.DEFINE_integer("steps", None, "meta-steps of every run; default: that of the case")
_KEEP = flags.DEFINE_bool("keep", True, "write the record")


def _seconds(arguments: list[str], folder: str) -> float:
    """Seconds that a command takes, with an empty folder of compiled programs."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": f"{folder}/programs"}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *arguments], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise UsageError(f"{' '.join(arguments)} failed: {done.stderr.strip().splitlines()[-1]}")
    return time.perf_counter() - started


def measure(name: str, seeds: int, steps: int | None) -> Record:
    """The times of a single run and of a population."""
    case = CASES[name]
    number = steps or case.steps
    overrides = [f"--config={case.card}", "--config.baselines=()", "--config.eval.num_episodes=200"]
    overrides += [f"--config.num_meta_steps={number}", "--config.eval.validation_every=0"]
    seconds = {}
    for of in (1, seeds):
        with tempfile.TemporaryDirectory() as folder:
            sweep = ["experiments.sweep", f"--workdir={folder}/runs", f"--seeds=0:{of}"]
            seconds[of] = _seconds([*sweep, *overrides], folder)
    return {
        "case": name,
        "card": case.card,
        "meta_steps": number,
        "seeds": seeds,
        "single_seconds": round(seconds[1], 1),
        "population_seconds": round(seconds[seeds], 1),
        "ratio": round(seconds[seeds] / seconds[1], 2),
    }


def main(_: list[str]) -> None:
    """Measures all cases and writes the record."""
    if unknown := set(_CASES.value) - set(CASES):
        raise UsageError(f"--cases={','.join(sorted(unknown))} is unknown; use {', '.join(CASES)}")
    cores = len(os.sched_getaffinity(0))
    rows = []
    for name in _CASES.value:
        rows.append(measure(name, _SEEDS.value, _STEPS.value))
        print(rows[-1], flush=True)
    if _KEEP.value:
        path: pathlib.Path = results.write(
            NAME, {**provenance.describe(), "cores": cores, "rows": rows}
        )
        print(path)


if __name__ == "__main__":
    cli.run(main)
