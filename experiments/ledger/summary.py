"""What the records of a row say: means, intervals and a verdict."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.ledger import records
from experiments.ledger.row import Published, Row
from experiments.ledger.rows import ROWS
from experiments.publish.formats import DIVERGED, LARGEST
from experiments.publish.results import Record
from maml_jax.run.comparison import over_seeds
from maml_jax.run.formats import diverged, duration, plural, text_table

NOT_RUN = "not run"
_ENOUGH_SEEDS = 3


class Measured(NamedTuple):
    """A number of ours; accuracies in %."""

    mean: float  # over seeds
    over_seeds: float  # half-width of the 95% t-interval; of one seed, that over its tasks
    over_tasks: float  # half-width of the 95% interval over the test tasks of all seeds


def _values(row: Row, runs: Sequence[Record], step: int) -> list[tuple[float, float]]:
    """The measure of each run after a step, with its interval over test tasks."""
    found = []
    for run in runs:
        of = run if row.parameters == "last" else run[row.parameters]
        name, unit = ("accuracy", 100.0) if "accuracy" in of else ("loss", 1.0)
        found.append((unit * of[name][step], unit * of[f"{name}_ci95"][step]))
    return found


def measured(row: Row, runs: Sequence[Record], step: int = -1) -> Measured:
    """The mean over the seeds of a row after a step, with its intervals."""
    values = _values(row, runs, step)
    mean, half_width = over_seeds(values)
    tasks = float(np.sqrt(np.sum([ci95**2 for _, ci95 in values])) / len(values))
    return Measured(mean, half_width, tasks)


def is_accuracy(runs: Sequence[Record]) -> bool:
    """Whether larger is better."""
    return "accuracy" in runs[0]


def _verdict(of: Measured, published: Published, accuracy: bool) -> str:
    reach = of.over_tasks if published.over == "tasks" else of.over_seeds
    short = published.value - of.mean if accuracy else of.mean - published.value
    beyond = short - (published.ci95 or 0.0)
    unit = " points" if accuracy else ""
    if not of.mean < LARGEST:
        return DIVERGED
    if beyond <= reach:
        return "reproduced"
    if beyond <= of.over_seeds:
        return f"short by {short:.2f}{unit} (within the spread of the seeds)"
    return f"short by {short:.2f}{unit}"


def verdict(row: Row, runs: Sequence[Record]) -> str:
    """Whether the published numbers are reached.

    One is if our mean, with its interval over test tasks, reaches its interval or is better. If
    only the wider interval over seeds does, it says so. Where the published interval is one over
    runs, so is ours.
    """
    if not runs:
        return NOT_RUN
    if not row.published:
        return "nothing published to compare with"
    found = {
        of.step: _verdict(measured(row, runs, of.step), of, is_accuracy(runs))
        for of in row.published
    }
    if len(set(found.values())) == 1:
        text = next(iter(found.values()))
    else:
        text = ", ".join(f"{of} after {plural(step, 'step')}" for step, of in found.items())
    if len(runs) < _ENOUGH_SEEDS:
        text += f" ({plural(len(runs), 'seed')} only)"
    if not is_accuracy(runs) and (left_out := sum(map(diverged, runs))):
        tested = sum(run["num_episodes"] for run in runs)
        text += f"; without {left_out:,} of {tested:,} test tasks, which diverged"
    return text


def minutes(runs: Sequence[Record]) -> float:
    """The mean time of training and testing a seed; 0 if it was not recorded."""
    seconds = [
        run.get("train_seconds", run.get("seconds", 0.0)) + run.get("evaluate_seconds", 0.0)
        for run in runs
    ]
    return float(np.mean(seconds)) / 60 if seconds else 0.0


def listing() -> str:
    """All rows, for the terminal."""
    head = ["row", "published", "config", "CPU", "GPU", "seeds kept", "verdict"]
    body = []
    for name, row in ROWS.items():
        runs = records.read(name)
        body.append(
            [
                name,
                " / ".join(of.text for of in row.published),
                row.command_card,
                *(duration(60 * of) if of else "?" for of in (row.cpu_minutes, row.gpu_minutes)),
                str(len(runs)),
                verdict(row, runs) if runs else row.needs and f"needs {row.needs}",
            ]
        )
    return text_table(head, body)
