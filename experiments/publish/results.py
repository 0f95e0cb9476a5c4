"""The results that the repository keeps: small JSON files, one per study or benchmark.

Results of version 0.1 have its config keys. `read` gives every result with today's; the commands
in a result stay as they were run, and experiments/results/README.md maps them to today's.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from maml_jax.errors import UsageError
from maml_jax.run import files, provenance
from maml_jax.run.config import flatten, renamed
from maml_jax.run.workdir import as_json, read_config, read_evaluation

Record = dict[str, Any]  # a JSON object

_MAY_DIFFER = ("seed", "baselines")  # in runs that are kept together
RESULTS = pathlib.Path(__file__).parent.parent / "results"
# Fields of records of version 0.1 -> their names today.
_RENAMED_FIELDS = {
    "inner_learning_rate": "inner_step_size",
    "rate": "step_size",
    "rate_times_curvature": "step_size_times_curvature",
}


def write(name: str, record: Record) -> pathlib.Path:
    """Writes results/NAME.json."""
    path = RESULTS / f"{name}.json"
    files.write(path, files.dumps(record, indent=1) + "\n")
    return path


def keep(name: str, folders: Sequence[str]) -> pathlib.Path:
    """Writes results/NAME.json from the records of finished runs and of their baselines.

    Args:
      name: of the result.
      folders: workdirs of runs of one config that differ in the seed; some may have baselines.

    Returns:
      The path of the result.

    Raises:
      UsageError: there are no runs, one is not finished, or they are of several configs.
    """
    if not folders:
        raise UsageError("no runs are given; use experiments.publish.keep --name=NAME RUN RUN ...")
    workdirs = [files.local_folder(folder) for folder in folders]
    configs = [as_json(read_config(workdir)) for workdir in workdirs]
    first, *others = (
        {key: of for key, of in flatten(config) if key not in _MAY_DIFFER} for config in configs
    )
    for workdir, other in zip(workdirs[1:], others, strict=True):
        if other != first:
            raise UsageError(
                f"{workdir} is of another config than {workdirs[0]}; keep it by itself"
            )
    records = [
        (baseline or config["algorithm"], read_evaluation(workdir / baseline))
        for workdir, config in zip(workdirs, configs, strict=True)
        for baseline in ("", *config["baselines"])
    ]
    runs = [
        {"run": run, **{key: of for key, of in record.items() if key not in provenance.KEYS}}
        for run, record in records
    ]
    origin = {key: records[0][1].get(key) for key in provenance.KEYS}
    return write(name, {**origin, "config": configs[0], "runs": runs})


def read(name: str) -> Record:
    """Reads results/NAME.json, with today's names of config keys and fields.

    Raises:
      UsageError: there is no such result.
    """
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        kept = ", ".join(sorted(of.stem for of in RESULTS.glob("*.json")))
        raise UsageError(f"result {name!r} does not exist; there are: {kept}")
    return load(path)


def load(path: pathlib.Path) -> Record:
    """Reads a result that may be anywhere, with today's names of config keys and fields.

    Raises:
      UsageError: it cannot be read.
    """
    try:
        record: Record = json.loads(path.read_text("utf-8"), object_hook=_current)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read ({error}); give the JSON file of a result"
        ) from error
    return record


def _current(record: Record) -> Record:
    return _with_current_names(files.with_not_finite(record))


def _with_current_names(record: Record) -> Record:
    """One object of a result; those inside it have their current names already."""
    current = {_current_name(key): value for key, value in record.items()}
    if "config" in current:
        current["config"] = _current_config(current["config"])
    return current


def _current_name(name: str) -> str:
    if name.startswith("rate/"):
        return f"step_size/{name.removeprefix('rate/')}"
    return _RENAMED_FIELDS.get(name) or renamed(name) or name


def _current_config(config: Record) -> Record:
    current: Record = {}
    for key, value in flatten(config):
        section, _, name = _current_name(key).rpartition(".")
        (current.setdefault(section, {}) if section else current)[name] = value
    return current
