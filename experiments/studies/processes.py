"""The training runs of a study, one by one or several at once in processes of their own."""

import os
import pathlib
import sys
from collections.abc import Sequence
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from experiments import cli
from experiments.publish.results import Record
from maml_jax.errors import DivergedError, UsageError
from maml_jax.run.config import differences
from maml_jax.run.loop import Interrupted, stop_requests, train_and_evaluate
from maml_jax.run.workdir import is_evaluated, open_workdir, read_config, read_evaluation

LOG = "log.txt"  # in a run's workdir: its output, if it runs in a process of its own


class Run(NamedTuple):
    """A run to train."""

    config: ConfigDict
    workdir: pathlib.Path

    @property
    def finished(self) -> bool:
        """Whether it is trained and evaluated."""
        return is_evaluated(self.workdir)


def evaluation_of(run: Run) -> Record:
    """The evaluation of a run, which is trained first unless it is finished.

    Raises:
      UsageError: the run is finished, but was evaluated with other settings.
    """
    config, workdir = run
    finished = run.finished
    if finished and (other := differences(config.to_dict(), read_config(workdir).to_dict(), ())):
        raise UsageError(
            f"workdir {workdir} holds a run that was evaluated with other settings "
            f"({'; '.join(other)}); use another --workdir"
        )
    open_workdir(config, workdir)
    if finished:
        return read_evaluation(workdir)
    try:
        return train_and_evaluate(config, workdir)
    finally:
        jax.clear_caches()  # the programs of dozens of runs exhaust a process' memory maps


class _Process(NamedTuple):
    process: BaseProcess
    workdir: pathlib.Path
    cores: set[int]


def _train(config: ConfigDict, workdir: pathlib.Path, programs: str, cores: set[int]) -> None:
    """The body of a process. A diverged run is no failure: its reader finds out."""
    workdir.mkdir(parents=True, exist_ok=True)
    log = os.open(workdir / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    os.setsid()  # stop requests come from the parent alone, since a second one ends a run at once
    os.sched_setaffinity(0, cores)
    cli.prepare_jax(programs)
    cli.import_modules()  # of --import, which a spawned process has on its command line too
    try:
        train_and_evaluate(config, workdir)
    except DivergedError as error:
        print(error)
    except UsageError as error:
        sys.exit(str(error))
    except Interrupted as stop:
        sys.exit(stop.code)


def _cores_of_jobs(jobs: int) -> list[set[int]]:
    """CPU cores of each job: separate ones on a CPU, all of them beside an accelerator."""
    cores = sorted(os.sched_getaffinity(0))
    apart = jax.default_backend() == "cpu"
    return [set(cores[job % len(cores) :: jobs] if apart else cores) for job in range(jobs)]


def train_all(runs: Sequence[Run], jobs: int, programs: str) -> None:
    """Trains and evaluates runs, `jobs` at a time, except those that are finished.

    Args:
      runs: they resume like any run.
      jobs: number of processes at once. On a GPU they share its memory, and CUDA's MPS lets their
        kernels overlap.
      programs: folder of the compiled programs, which they share.

    Raises:
      Interrupted: SIGTERM or Ctrl-C; all running processes have saved their state.
      UsageError: a run failed, and the others are finished. Its log is named.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else the first takes it all
    spawn = get_context("spawn")  # JAX does not survive a fork
    pending = [run for run in runs if not run.finished]
    free, failed, terminated = _cores_of_jobs(jobs), list[str](), False
    running: list[_Process] = []
    with stop_requests() as received, tqdm(total=len(pending), desc="runs") as bar:
        while running or (pending and not received):
            while pending and free and not received:
                (config, workdir), cores = pending.pop(0), free.pop()
                process = spawn.Process(target=_train, args=(config, workdir, programs, cores))
                process.daemon = True  # a second stop request ends it too
                process.start()
                running.append(_Process(process, workdir, cores))
            ready = connection.wait([of.process.sentinel for of in running], timeout=1.0)
            for ended in [of for of in running if of.process.sentinel in ready]:
                running.remove(ended)
                ended.process.join()
                free.append(ended.cores)
                bar.update(not ended.process.exitcode)
                if ended.process.exitcode and not received:
                    failed.append(str(ended.workdir / LOG))
            if received and not terminated:
                for under_way in running:
                    under_way.process.terminate()
                terminated = True
    if received:
        raise Interrupted(f"with {bar.total - bar.n} runs to go", 128 + received[0])
    if failed:
        raise UsageError(f"{len(failed)} of {bar.total} runs failed; see {', '.join(failed)}")
