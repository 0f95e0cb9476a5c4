"""The training runs of a study: those of one program are trained together, as a population."""

from collections.abc import Sequence

import jax

from experiments.publish.results import Record
from maml_jax.errors import UsageError
from maml_jax.run.config import differences
from maml_jax.run.loop import train_and_evaluate
from maml_jax.run.messages import note
from maml_jax.run.population import Run
from maml_jax.run.sweep import TrainGroups, train_here, train_sweep
from maml_jax.run.workdir import is_evaluated, open_workdir, read_config, read_evaluation


def evaluation_of(run: Run) -> Record:
    """The evaluation of a run, which is trained first unless it is finished.

    Raises:
      UsageError: the run is finished, but was evaluated with other settings.
    """
    config, workdir = run
    finished = is_evaluated(workdir)
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


def train_all(
    runs: Sequence[Run], largest: int = 32, train_groups: TrainGroups = train_here
) -> None:
    """Trains and evaluates the runs that are not finished, those of one program as a population.

    A run that fails is named, and the others are finished. `evaluation_of` tries it again alone
    and raises its error.

    Args:
      runs: they resume like any run.
      largest: most members of a population.
      train_groups: where populations are trained, see `experiments.executors`.

    Raises:
      Interrupted: SIGTERM or Ctrl-C; all states are saved.
      UsageError: a folder holds a run of another config.
    """
    for workdir, reason in train_sweep(runs, largest, train_groups).items():
        note(f"{workdir}: {reason}")
