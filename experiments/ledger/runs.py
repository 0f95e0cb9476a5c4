"""The runs of a row: trained where they are missing, tested, and made into records."""

import pathlib
from collections.abc import Callable, Mapping, Sequence

from experiments.ledger.row import Row
from experiments.publish.results import Record
from experiments.studies.runs import evaluation_of, train_all
from maml_jax.run.loop import evaluate_run
from maml_jax.run.population import Run

_TRAINING = ("train_seconds", "nonfinite_tasks", "evaluate_seconds")  # fields of an evaluation
TrainFn = Callable[[Sequence[Run]], list[Record]]


def one_by_one(runs: Sequence[Run]) -> list[Record]:
    """Trains and evaluates runs in turn; those that are finished are read."""
    return [evaluation_of(run) for run in runs]


def together(runs: Sequence[Run]) -> list[Record]:
    """The same in one program, which an accelerator takes little longer for than for one run."""
    train_all(runs)
    return one_by_one(runs)


def run_of(
    name: str, rows: Mapping[str, Row], seed: int, root: pathlib.Path, *, smoke: bool = False
) -> Run:
    """The run of a row, or of the row whose runs it tests, in a workdir of its own."""
    trained = rows[name].run_of or name
    row = rows[trained]
    config = row.smoke_config(seed) if smoke else row.config(seed)
    return Run(config, root / trained / f"seed_{seed}")


def records_of(
    name: str,
    rows: Mapping[str, Row],
    seeds: Sequence[int],
    root: pathlib.Path,
    *,
    smoke: bool = False,
    train: TrainFn = one_by_one,
) -> list[Record]:
    """Trains and tests a row with these seeds.

    Args:
      name: of the row.
      rows: all rows.
      seeds: of the runs.
      root: the folder of the workdirs, ROW/seed_SEED.
      smoke: makes the runs tiny.
      train: what trains and evaluates runs of one config.

    Returns:
      One record a seed: the evaluation, hardware, versions, and the command that repeats it.
    """
    row = rows[name]
    runs = [run_of(name, rows, seed, root, smoke=smoke) for seed in seeds]
    made = []
    for run, record in zip(runs, train(runs), strict=True):
        if row.evaluation:
            training = {key: record[key] for key in _TRAINING if key in record}
            record = evaluate_run(run.workdir, dict(row.evaluation)) | training
        command = f"python -m experiments.reproduce --row={name} --seeds={run.config.seed}"
        made.append({**record, "command": command + (" --smoke" if smoke else "")})
    return made
