"""Training of many runs, those that share a program as populations."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import jax

from maml_jax.errors import UsageError, first_line
from maml_jax.run.config import FREE_KEYS, differences
from maml_jax.run.formats import plural
from maml_jax.run.messages import note
from maml_jax.run.population import Run, grouped, train_population
from maml_jax.run.workdir import find_config, is_evaluated

Failures = dict[pathlib.Path, str]  # workdir -> why it failed


class TrainGroups(Protocol):
    """Trains groups of runs, each a population: one result for each run of each group."""

    def __call__(self, groups: Sequence[Sequence[Run]], /) -> Iterator[Sequence[str]]: ...


def _is_finished(run: Run) -> bool:
    """Whether a run is trained and evaluated.

    Raises:
      UsageError: its folder holds a run of another config.
    """
    if not is_evaluated(run.workdir):
        return False
    old = find_config(run.workdir)
    free = tuple(key for key in FREE_KEYS if key != "eval")
    changed = [] if old is None else differences(run.config.to_dict(), old.to_dict(), free)
    if changed:
        raise UsageError(
            f"{run.workdir} holds a finished run of another config ({'; '.join(changed)}); use "
            "another --workdir, or the config of this sweep"
        )
    return True


def unfinished_groups(runs: Sequence[Run], largest: int) -> list[list[Run]]:
    """The runs that are not finished, in populations of at most `largest` members.

    Raises:
      UsageError: a folder holds a run of another config.
    """
    left = [run for run in runs if not _is_finished(run)]
    groups = ([left[index] for index in group] for group in grouped([run.config for run in left]))
    return [list(part) for group in groups for part in _parts(group, largest)]


def _parts(group: Sequence[Run], largest: int) -> Iterator[Sequence[Run]]:
    for first in range(0, len(group), largest):
        yield group[first : first + largest]


def train_group(runs: Sequence[Run]) -> list[str]:
    """Trains a population; for each run why it failed, or an empty text."""
    try:
        results = train_population(runs)
    except UsageError as error:
        return [first_line(error)] * len(runs)
    finally:
        jax.clear_caches()  # the programs of dozens of groups exhaust a process' memory maps
    return [first_line(of) if isinstance(of, UsageError) else "" for of in results]


def train_here(groups: Sequence[Sequence[Run]]) -> Iterator[Sequence[str]]:
    """Trains groups one after another in this process."""
    return map(train_group, groups)


def train_sweep(
    runs: Sequence[Run], largest: int, train_groups: TrainGroups = train_here
) -> Failures:
    """Trains and evaluates all runs that are not finished; returns those that failed.

    Raises:
      Interrupted: SIGTERM or Ctrl-C; all states are saved.
      UsageError: a folder holds a run of another config.
    """
    groups = unfinished_groups(runs, largest)
    number = sum(map(len, groups))
    note(f"{plural(number, 'run')} of {len(runs)} to train, in {plural(len(groups), 'population')}")
    failures: Failures = {}
    for group, reasons in zip(groups, train_groups(groups), strict=True):
        for run, reason in zip(group, reasons, strict=True):
            if reason:
                failures[run.workdir] = reason
    return failures
