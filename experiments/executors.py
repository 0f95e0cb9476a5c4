"""Where the populations of a sweep are trained: in this process, or as jobs of submitit."""

import functools
import importlib
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from experiments import cli
from maml_jax.errors import UsageError, first_line
from maml_jax.run.loop import Interrupted, stop_requests
from maml_jax.run.messages import note
from maml_jax.run.population import Run
from maml_jax.run.sweep import TrainGroups, train_group, train_here

EXECUTORS = ("here", "local", "slurm")
_POLL_SECONDS = 1.0
MOST = flags.DEFINE_integer(
    "population", 32, "most runs that are trained together, which bounds memory", lower_bound=1
)
_EXECUTOR = flags.DEFINE_enum(
    "executor",
    "here",
    EXECUTORS,
    "here: populations one after another in this process; local and slurm: each is a job of "
    "submitit (pip install submitit), on this machine or on a SLURM cluster",
)
_JOB = flags.DEFINE_list(
    "job", [], "parameters of the jobs, as timeout_min=240,slurm_partition=gpu,gpus_per_node=1"
)


def chosen(folder: pathlib.Path) -> TrainGroups:
    """How --executor trains groups of runs in the folder; see `train_groups_by`."""
    return train_groups_by(_EXECUTOR.value, folder, _JOB.value)


def train_groups_by(executor: str, folder: pathlib.Path, job: Sequence[str]) -> TrainGroups:
    """How a sweep trains its groups.

    Args:
      executor: one of `EXECUTORS`.
      folder: of the sweep; the logs of its jobs are in jobs/ below it.
      job: parameters of a job, each NAME=VALUE, of submitit's `update_parameters`.

    Raises:
      UsageError: submitit is missing, or a parameter is not allowed.
    """
    if executor == "here":
        if job:
            raise UsageError(f"--job={','.join(job)} has no effect with --executor=here; leave it")
        return train_here
    try:
        submitit = importlib.import_module("submitit")
    except ImportError as error:
        raise UsageError(
            f"--executor={executor} needs submitit; pip install submitit, or use --executor=here"
        ) from error
    parameters = _parameters(job)
    try:
        queue = submitit.AutoExecutor(folder=folder / "jobs", cluster=executor)
        queue.update_parameters(name=folder.name, **parameters)
    except Exception as error:  # submitit raises several kinds
        raise UsageError(f"--executor={executor}: {first_line(error)}") from error
    return functools.partial(_train_as_jobs, queue)


def _parameters(job: Sequence[str]) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for text in job:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--job={text} is no NAME=VALUE; as timeout_min=240")
        parameters[name] = int(value) if value.isdigit() else value
    return parameters


def _train_group(modules: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """The body of a job, with the modules of --import."""
    sys.argv += [f"--import={module}" for module in modules]
    cli.prepare_jax()
    cli.import_modules()
    try:
        return train_group(runs)
    except Interrupted as stop:
        return [str(stop)] * len(runs)


def _train_as_jobs(queue: Any, groups: Sequence[Sequence[Run]]) -> Iterator[Sequence[str]]:
    """Submits a job for every group, and waits for all of them."""
    modules = cli.imported_modules()
    jobs = [queue.submit(_train_group, modules, group) for group in groups]
    if jobs:
        note(f"{len(jobs)} jobs are submitted; logs: {queue.folder}")
    with stop_requests() as received:
        while not received and not all(job.done() for job in jobs):
            time.sleep(_POLL_SECONDS)
        if received:
            for job in jobs:
                job.cancel()
            raise Interrupted("with jobs under way, which are cancelled", 128 + received[0])
    for job, group in zip(jobs, groups, strict=True):
        try:
            yield job.result()
        except Exception as error:  # whatever ended the job
            yield [f"job {job.job_id}: {_last_line(error)}"] * len(group)


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
