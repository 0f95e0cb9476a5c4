"""The folder of a run: its config, its checkpoints and its evaluation."""

import json
import os
import pathlib
from itertools import count
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from maml_jax.errors import UnknownSectionError, UsageError
from maml_jax.lengths.schedule import Schedule
from maml_jax.meta.evaluate import PerEpisode
from maml_jax.run import files
from maml_jax.run.build import Experiment, build
from maml_jax.run.checkpoint import check_config, newest
from maml_jax.run.config import (
    check_key,
    default_config,
    flatten,
    renamed,
    resume_conflicts,
    without_unused,
)
from maml_jax.run.ensemble import read_members
from maml_jax.run.evaluation import Evaluation
from maml_jax.run.files import DamagedError, Record
from maml_jax.run.messages import note
from maml_jax.run.problems import Inputs
from maml_jax.types import MetaParams, TrainState

CHECKPOINTS = "checkpoints"
BEST = "best_checkpoints"
EVALUATED_WITH = (
    "num_episodes",
    "ways",
    "shots",
    "query_shots",
    "num_steps",
    "later_step_sizes",
)  # of config.eval


def as_json(config: ConfigDict) -> Record:
    """The config as it is read back from JSON, which has lists for tuples."""
    plain: Record = json.loads(json.dumps(config.to_dict()))
    return plain


def open_workdir(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Makes the folder and writes config.json, or compares the config of the run that is there.

    Raises:
      UsageError: the folder cannot be written, or holds a run of another config.
    """
    new, old = as_json(config), find_config(workdir)
    if old is None:
        check_config(workdir / CHECKPOINTS, new)
    elif changed := resume_conflicts(new, as_json(old)):
        raise UsageError(
            f"workdir {workdir} holds a run of another config ({'; '.join(changed)}); use another "
            f"--workdir (--init_from={workdir} starts from what this run has learned), or that "
            "run's config to continue it"
        )
    with files.writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    files.write(workdir / "config.json", json.dumps(new, indent=2) + "\n")


def write_inputs(inputs: Inputs | None, workdir: pathlib.Path) -> None:
    """Writes inputs.json, with which a trained network can be used without the data of its run.

    Raises:
      UsageError: the file cannot be written.
    """
    if inputs is not None:
        files.write(workdir / "inputs.json", json.dumps(inputs._asdict(), indent=2) + "\n")


def read_inputs(workdir: pathlib.Path) -> Inputs | None:
    """What a run's network takes; None if its data have to tell."""
    try:
        record = files.read_json(workdir / "inputs.json")
        return None if record is None else Inputs.of(record)
    except (DamagedError, KeyError, TypeError):
        return None


def read_evaluation(workdir: str | os.PathLike[str]) -> Record:
    """The evaluation of a finished run.

    Raises:
      UsageError: the run is not finished, or its evaluation cannot be read.
    """
    try:
        record = files.read_json(files.local_folder(workdir) / "evaluation.json")
    except DamagedError as error:
        raise DamagedError(f"{error}; the run's train command makes it again") from error
    if record is None:
        raise UsageError(f"the run in {workdir} is not evaluated yet; its train command goes on")
    return record


def is_evaluated(workdir: pathlib.Path) -> bool:
    """Whether a run is trained and has an evaluation that can be read."""
    try:
        return files.read_json(workdir / "evaluation.json") is not None
    except DamagedError:
        return False


def read_config(workdir: str | os.PathLike[str]) -> ConfigDict:
    """The config of the run in a folder.

    Raises:
      UsageError: the folder holds no run, or its config cannot be read.
    """
    folder = files.local_folder(workdir)
    config = find_config(folder)
    if config is None:
        of_sweep = (folder / "sweep.csv").exists()
        fix = "see its SETTING/seed_N" if of_sweep else "train one there with experiments.train"
        raise UsageError(f"workdir {workdir} holds no run; {fix}")
    return config


def find_config(workdir: pathlib.Path) -> ConfigDict | None:
    """The config of the run in a folder; None if it holds no run.

    Raises:
      UsageError: the config cannot be read.
    """
    try:
        record = files.read_json(workdir / "config.json")
        return None if record is None else config_of(record, f"workdir {workdir}")
    except (DamagedError, TypeError) as error:  # a TypeError of ml_collections
        raise DamagedError(
            f"{workdir}/config.json cannot be used ({error}); restore or remove it "
            "and call the train command, which compares its config with that of the checkpoints"
        ) from error


def config_of(record: Record, holder: str) -> ConfigDict:
    """The config that JSON holds; `holder` is what messages call the place.

    Raises:
      UsageError: it is of version 0.1, or has keys that are unknown.
    """
    config, values = default_config(), dict(flatten(record))
    if old := [key for key in values if renamed(key)]:
        raise UsageError(
            f"{holder} holds a run of maml_jax 0.1 (its config has {old[0]!r}, which is "
            f"called {renamed(old[0])!r} now); continue it with version 0.1, or train it anew in "
            "another --workdir"
        )
    try:
        for key in values:
            check_key(key)
    except UnknownSectionError as error:
        raise UsageError(f"{holder} cannot be used: {error}") from error
    except UsageError as error:
        raise DamagedError(str(error)) from error
    # JSON knows no tuples: each value takes the type of its default.
    config.update_from_flattened_dict(
        {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    )
    return without_unused(config)


def load_run(
    workdir: str | os.PathLike[str], overrides: dict[str, Any] | None = None
) -> tuple[Experiment, TrainState]:
    """A run's functions and its newest state; nothing is written.

    Args:
      workdir: folder of the run.
      overrides: values that replace those of the config's `eval` section.

    Raises:
      UsageError: the folder holds no run or no readable checkpoint, or an override is not allowed.
    """
    config = read_config(workdir)
    config.eval.update(overrides or {})
    experiment = build(config, training=False)
    restored = newest(files.local_folder(workdir) / CHECKPOINTS, experiment.init(), as_json(config))
    if restored is None:
        raise UsageError(f"workdir {workdir} holds no checkpoint yet; its train command goes on")
    return experiment, restored.state


def read_trained(
    experiment: Experiment, workdir: pathlib.Path, *, last: bool
) -> tuple[MetaParams, Record]:
    """What a run has learned, and the evaluation of that; empty if there is none yet.

    Args:
      experiment: the run's functions.
      workdir: its folder.
      last: the parameters of the last checkpoint, even if validation has selected better ones.

    Raises:
      UsageError: there is no readable checkpoint.
    """
    template, config = experiment.init(), as_json(experiment.config)
    selected = None if last else newest(workdir / BEST, template, config)
    restored = selected or newest(workdir / CHECKPOINTS, template, config)
    if restored is None:
        raise UsageError(f"workdir {workdir} holds no checkpoint yet; its train command goes on")
    try:
        whole = files.read_json(workdir / "evaluation.json") or {}
    except DamagedError:
        whole = {}
    record = {key: value for key, value in whole.items() if key not in ("selected", "soft")}
    if selected is not None:
        record |= whole.get("selected", {})
    if record.get("meta_step") != int(restored.state.step):
        record = {}
    meta_params = restored.state.meta_params
    if experiment.spec.entry.tunes_step_size and record:
        tuned = jnp.asarray(record["inner_step_size"], jnp.float32)
        meta_params = meta_params._replace(step_sizes=tuned)
    return meta_params, record


def _estimates(evaluation: Evaluation) -> Record:
    counts = evaluation.counts
    record: Record = {
        "diverged_episodes": counts.diverged,
        "nonfinite_episodes": counts.not_finite,
    }
    for name, estimate in evaluation.estimates.items():
        record[name] = [float(value) for value in estimate.mean]
        record[f"{name}_ci95"] = [float(value) for value in estimate.ci95]
        record[f"{name}_median"] = [float(value) for value in estimate.median]
        if (estimate.finite < 1).any():
            record[f"{name}_finite_share"] = [float(value) for value in estimate.finite]
    return record


class MakeSchedule(Protocol):
    """The schedule of a state's inner loop; None for the loop that masks."""

    def __call__(self, state: TrainState, /) -> Schedule | None: ...


class Evaluated(NamedTuple):
    """What an evaluation says."""

    record: Record  # what is kept of it: one JSON object
    episodes: dict[str, PerEpisode]  # of the last, selected and ensemble's parameters


def _evaluate_state(
    experiment: Experiment, state: TrainState, make_schedule: MakeSchedule
) -> tuple[Record, PerEpisode]:
    """The record of one state, and the values of every test episode.

    Learned lengths are evaluated hard; what the soft gates of training give is under "soft".
    """
    spec, learned = experiment.spec, experiment.learned
    schedule = make_schedule(state)
    evaluation = experiment.evaluate(state.meta_params, schedule=schedule)
    lengths = learned.lengths(state.meta_params)
    if schedule is not None:
        lengths = {path: np.minimum(of, schedule.last_steps[path]) for path, of in lengths.items()}
    record: Record = {
        "algorithm": spec.algorithm,
        "meta_step": int(state.step),
        "seed": spec.seed,
        **{name: getattr(spec.eval, name) for name in EVALUATED_WITH if name != "ways"},
        **({"ways": spec.eval.ways} if experiment.problem.ways else {}),
        "inner_step_size": evaluation.step_size,
        "inner_compute": [learned.compute(lengths, k) for k in range(spec.eval.num_steps + 1)],
        **_estimates(evaluation),
    }
    if values := learned.values(state.meta_params):
        record["learned"] = values
    if learned.gates is not None:
        record["lengths"] = learned.summary(state.meta_params)
        record["length_counts"] = learned.counts(state.meta_params)
        record["soft"] = _estimates(experiment.evaluate(state.meta_params, soft=True))
    return record, evaluation.per_episode


def evaluate_both(
    experiment: Experiment,
    state: TrainState,
    workdir: pathlib.Path,
    make_schedule: MakeSchedule | None = None,
) -> Evaluated:
    """The state's record, with that of the validation-selected parameters under "selected".

    That of the best parameters together is under "ensemble", if eval.ensemble is above 1.

    Args:
      experiment: the run's functions.
      state: its state.
      workdir: its folder.
      make_schedule: the schedule that the inner loop is compiled for; None takes that of the
        learned lengths, which changes nothing but the time.
    """

    def compiled(state: TrainState) -> Schedule | None:
        return experiment.learned.schedule(state.meta_params, experiment.spec.eval.num_steps)

    of_state = make_schedule or compiled
    record, per_episode = _evaluate_state(experiment, state, of_state)
    episodes = {"last": per_episode}
    selected = newest(workdir / BEST, state, as_json(experiment.config))
    if selected is not None:
        record["selected"], episodes["selected"] = _evaluate_state(
            experiment, selected.state, of_state
        )
    if (number := experiment.spec.eval.ensemble) > 1:
        members = read_members(workdir, state, as_json(experiment.config), number)
        together = experiment.evaluate_ensemble([of.meta_params for of in members])
        record["ensemble"] = {
            "meta_steps": [int(of.step) for of in members],
            **_estimates(together),
        }
        episodes["ensemble"] = together.per_episode
    return Evaluated(record, episodes)


def write_evaluation(workdir: pathlib.Path, record: Record) -> None:
    """Writes evaluation.json; one that was made with other settings is kept under another name.

    Raises:
      UsageError: a file cannot be written.
    """
    path = workdir / "evaluation.json"
    try:
        before = files.read_json(path)
    except DamagedError as error:
        note(f"{error}; it is made again")
        before = {} if path.stat().st_size else None
    if before:
        for key in ("ways", "later_step_sizes"):  # older versions did not write them
            before.setdefault(key, record.get(key))
    if before is not None and any(before.get(key) != record.get(key) for key in EVALUATED_WITH):
        names = (workdir / f"evaluation_{number}.json" for number in count(1))
        old = next(name for name in names if not name.exists())
        with files.writing(old):
            path.rename(old)
        note(f"the evaluation with other settings is kept as {old}")
    files.write(path, files.dumps(record, indent=2) + "\n")
