"""What is kept of the runs of a row: one JSON file a row, with one record a seed."""

import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from experiments.ledger.row import Row, conflicts, portable
from experiments.publish import results
from experiments.publish.results import Record
from maml_jax.errors import UsageError
from maml_jax.run import files, provenance
from maml_jax.run.config import baseline_config, default_config, flatten, without_unused
from maml_jax.run.spec import BASELINES


def ledger() -> pathlib.Path:
    """The folder of the records that the repository keeps."""
    return results.RESULTS / "ledger"


def read(name: str, folder: pathlib.Path | None = None) -> list[Record]:
    """The records of a row's runs, by seed; none if it was not run."""
    path = (folder or ledger()) / f"{name}.json"
    kept = files.read_json(path)
    return [] if kept is None else list(kept["runs"])


def add(
    name: str, row: Row, runs: Sequence[Record], folder: pathlib.Path | None = None
) -> pathlib.Path:
    """Adds records to those of a row; one of a seed that is there already takes its place.

    Raises:
      UsageError: the file cannot be written, or has runs of another config.
    """
    path = (folder or ledger()) / f"{name}.json"
    kept = files.read_json(path)
    changed = [] if kept is None else conflicts(_as_config(kept["config"]), row.config())
    if changed:
        raise UsageError(f"{path} has runs of another config ({'; '.join(changed)}); move it away")
    by_seed = {run["seed"]: run for run in (*read(name, folder), *runs)}
    with files.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "row": name,
        "config": portable(row.config().to_dict()),
        "runs": [by_seed[seed] for seed in sorted(by_seed)],
    }
    files.write(path, files.dumps(record, indent=1) + "\n")
    return path


def imported(row: Row, path: pathlib.Path) -> list[Record]:
    """The records of a row's runs in a kept result, which may be one of version 0.1.

    A result of several algorithms, or of tests with several numbers of shots, gives those that are
    the row's.

    Raises:
      UsageError: there is none, or they are of another config.
    """
    kept, spec = results.load(path), row.tested()
    run = "oracle" if spec.task.oracle else spec.algorithm
    config = _as_config(kept["config"])
    config = baseline_config(config, run) if run in BASELINES else config
    if changed := conflicts(config, row.config()):
        raise UsageError(f"{path} is of another config ({'; '.join(changed)}); use another --row")
    origin = {key: kept.get(key) for key in provenance.KEYS}
    runs = [
        origin | of
        for of in kept.get("runs") or kept["evaluations"]
        if of["run"] == run
        and of["shots"] == spec.eval.shots
        and of["query_shots"] == spec.eval.query_shots
        and of["num_steps"] == spec.eval.num_steps
    ]
    if not runs:
        raise UsageError(
            f"{path} has no test of {run!r} with {spec.eval.shots} + {spec.eval.query_shots} "
            f"examples of a class and {spec.eval.num_steps} steps; use another result"
        )
    return runs


def _as_config(record: Record) -> ConfigDict:
    """The config that a kept result has, without keys that are no more."""
    config = default_config()
    known = dict(flatten(config))
    config.update_from_flattened_dict(
        {
            key: tuple(of) if isinstance(of, list) else of
            for key, of in flatten(record)
            if key in known
        }
    )
    return without_unused(config)
