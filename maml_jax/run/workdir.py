"""The folder of a run: its config, its checkpoints and its evaluation."""

import json
import pathlib
import sys
from typing import Any

from ml_collections import ConfigDict
from tqdm import tqdm

from maml_jax.errors import UsageError
from maml_jax.run.build import Experiment, build
from maml_jax.run.checkpoint import Checkpoints
from maml_jax.run.config import check_key, default_config, differences, flatten, renamed
from maml_jax.run.evaluation import Evaluation
from maml_jax.types import TrainState

BEST = "best_checkpoints"
EVALUATED_WITH = ("num_episodes", "shots", "query_shots", "num_steps")  # of config.eval


def open_workdir(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Makes the folder and writes config.json, or compares the one that is there.

    Raises:
      UsageError: the folder cannot be written, or holds a run of another config.
    """
    path = workdir / "config.json"
    new = json.loads(json.dumps(config.to_dict()))
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if path.exists():
            changed = differences(new, json.loads(json.dumps(read_config(workdir).to_dict())))
            if changed:
                raise UsageError(
                    f"workdir {workdir} holds a run of another config ({'; '.join(changed)}); "
                    "use another --workdir, or that run's config to continue it"
                )
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(new, indent=2) + "\n")
        temporary.replace(path)
    except OSError as error:
        raise UsageError(
            f"workdir {workdir} cannot be written ({error.strerror}); use another --workdir"
        ) from error


def read_evaluation(workdir: pathlib.Path) -> dict[str, Any]:
    """The evaluation of a finished run.

    Raises:
      UsageError: the run is not finished.
    """
    path = workdir / "evaluation.json"
    if not path.exists():
        raise UsageError(
            f"the run in {workdir} is not evaluated yet; its train command continues it"
        )
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def read_config(workdir: pathlib.Path) -> ConfigDict:
    """The config of the run in a folder.

    Raises:
      UsageError: the folder holds no run.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise UsageError(f"workdir {workdir} holds no run; train one there with experiments.train")
    config = default_config()
    values = dict(flatten(json.loads(path.read_text())))
    if old := [key for key in values if renamed(key)]:
        raise UsageError(
            f"workdir {workdir} holds a run of maml_jax 0.1 (its config has {old[0]!r}, which is "
            f"called {renamed(old[0])!r} now); continue it with version 0.1, or train it anew in "
            "another --workdir"
        )
    for key in values:
        check_key(key)
    # JSON knows no tuples: each value takes the type of its default.
    config.update_from_flattened_dict(
        {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    )
    return config


def load_run(
    workdir: pathlib.Path, overrides: dict[str, Any] | None = None
) -> tuple[Experiment, TrainState]:
    """A run's functions and its newest state.

    Args:
      workdir: folder of the run.
      overrides: values that replace those of the config's `eval` section.

    Raises:
      UsageError: the folder holds no run or no readable checkpoint, or an override is not allowed.
    """
    config = read_config(workdir)
    config.eval.update(overrides or {})
    experiment = build(config)
    checkpoints = Checkpoints(workdir, config.checkpoint.keep)
    state = checkpoints.restore(experiment.init())
    checkpoints.close()
    if state is None:
        raise UsageError(
            f"workdir {workdir} holds no checkpoint yet; its train command continues it"
        )
    return experiment, state


def _estimates(evaluation: Evaluation) -> dict[str, Any]:
    record: dict[str, Any] = {"nonfinite_episodes": evaluation.nonfinite}
    for name, estimate in evaluation.estimates.items():
        record[name] = [float(value) for value in estimate.mean]
        record[f"{name}_ci95"] = [float(value) for value in estimate.ci95]
        record[f"{name}_median"] = [float(value) for value in estimate.median]
    return record


def _evaluate_state(experiment: Experiment, state: TrainState) -> dict[str, Any]:
    """What is kept of an evaluation: one JSON object.

    Learned lengths are evaluated hard; what the soft gates of training give is under "soft".
    """
    spec, learned = experiment.spec, experiment.learned
    evaluation = experiment.evaluate(state.meta_params)
    lengths = learned.lengths(state.meta_params)
    record: dict[str, Any] = {
        "algorithm": spec.algorithm,
        "meta_step": int(state.step),
        "seed": spec.seed,
        **{name: getattr(spec.eval, name) for name in EVALUATED_WITH},
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
    return record


def evaluate_both(
    experiment: Experiment, state: TrainState, workdir: pathlib.Path
) -> dict[str, Any]:
    """The state's record, with that of the validation-selected parameters under "selected"."""
    record = _evaluate_state(experiment, state)
    if not (workdir / BEST).exists():
        return record
    best = Checkpoints(workdir, keep=1, name=BEST)
    selected = best.restore(state)
    best.close()
    if selected is not None:
        record["selected"] = _evaluate_state(experiment, selected)
    return record


def write_evaluation(workdir: pathlib.Path, record: dict[str, Any]) -> None:
    """Writes evaluation.json; one that was made with other settings is kept under another name."""
    path = workdir / "evaluation.json"
    if path.exists():
        before = read_evaluation(workdir)
        if any(before.get(key) != record[key] for key in EVALUATED_WITH):
            old = workdir / f"evaluation_{len(list(workdir.glob('evaluation_*.json'))) + 1}.json"
            path.rename(old)
            tqdm.write(f"the evaluation with other settings is kept as {old}", sys.stderr)
    path.write_text(json.dumps(record, indent=2) + "\n")
