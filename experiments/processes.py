"""Independent training runs in several processes at once, each with a log of its own."""

import os
import pathlib
import sys
from collections.abc import Sequence
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from typing import Any

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from experiments import cli
from maml_jax.errors import DivergedError, UsageError
from maml_jax.training import Interrupted, stop_requests, train_and_evaluate

LOG = "log.txt"  # in a run's workdir: what it would show on the terminal
Run = tuple[ConfigDict, pathlib.Path]


def _train(config: ConfigDict, workdir: pathlib.Path, programs: str, cores: set[int]) -> None:
    """Body of a process; a run that diverges is no failure: whoever reads it finds it so."""
    workdir.mkdir(parents=True, exist_ok=True)
    log = os.open(workdir / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    os.setsid()  # requests to stop come from the parent alone: a second one ends a run at once
    os.sched_setaffinity(0, cores)
    cli.prepare_jax(programs)
    try:
        train_and_evaluate(config, workdir)
    except DivergedError as error:
        print(error)
    except UsageError as error:
        sys.exit(str(error))
    except Interrupted as stop:
        sys.exit(stop.code)


def _shares(jobs: int) -> list[set[int]]:
    """CPU cores of each slot: apart on a CPU; with an accelerator all share all."""
    cores = sorted(os.sched_getaffinity(0))
    apart = jax.default_backend() == "cpu"
    return [set(cores[slot % len(cores) :: jobs] if apart else cores) for slot in range(jobs)]


def train_all(runs: Sequence[Run], jobs: int, programs: str) -> None:
    """Trains and evaluates runs, `jobs` at a time; finished ones are left alone.

    Args:
      runs: config and workdir of each; they resume like any run.
      jobs: processes at once. On a GPU they share its memory, and CUDA's MPS lets their kernels
        overlap.
      programs: folder of the compiled programs that they share.

    Raises:
      Interrupted: SIGTERM or Ctrl-C; every run under way has saved its state.
      UsageError: a run failed; the others are finished. Its log is named.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else the first takes it all
    spawn = get_context("spawn")  # JAX does not survive a fork
    pending = [run for run in runs if not (run[1] / "evaluation.json").exists()]
    free, failed, told = _shares(jobs), list[str](), False
    running: dict[Any, tuple[BaseProcess, pathlib.Path, set[int]]] = {}
    with stop_requests() as received, tqdm(total=len(pending), desc="runs") as bar:
        while running or (pending and not received):
            while pending and free and not received:
                (config, workdir), cores = pending.pop(0), free.pop()
                process = spawn.Process(target=_train, args=(config, workdir, programs, cores))
                process.daemon = True  # a second request to stop ends it too
                process.start()
                running[process.sentinel] = process, workdir, cores
            for sentinel in connection.wait(list(running), timeout=1.0):
                ended, workdir, cores = running.pop(sentinel)
                ended.join()
                free.append(cores)
                bar.update(not ended.exitcode)
                if ended.exitcode and not received:
                    failed.append(str(workdir / LOG))
            if received and not told:
                for under_way, *_ in running.values():
                    under_way.terminate()
                told = True
    if received:
        raise Interrupted(f"with {bar.total - bar.n} runs to go", 128 + received[0])
    if failed:
        raise UsageError(f"{len(failed)} of {bar.total} runs failed; see {', '.join(failed)}")
