"""A tiny study, and the record of a run that is not trained."""

import pathlib
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments.publish.results import Record
from experiments.studies.study import Arm, Family, Study, step_size_trials
from tests.run.runs import tiny_config


def tiny_study(step_sizes: Sequence[float] = (0.001, 0.01)) -> Study:
    base = tiny_config(num_meta_steps=20, eval__num_steps=2, inner__num_steps=2)
    sizes: dict[str, Any] = {
        "tuning_steps": 10,
        "tuning_seeds": 1,
        "seeds": 2,
        "wait": 0.5,
        "first_seed": 101,
        "steps": 2,
        "k_max": 2,
    }
    family = Family(base, step_size_trials(step_sizes), measure="loss", **sizes)
    knob = [{"lengths.initial_length": length} for length in (0.0, 2.0)]
    arms = {"maml": Arm({}), "adaptive_k": Arm({"algorithm": "adaptive_k"}, knob)}
    return Study(family, arms, seeds=2)


def finished_run(config: ConfigDict, workdir: pathlib.Path) -> Record:
    """The record of a run that is not trained."""
    seconds = {"train_seconds": 1.0, "evaluate_seconds": 1.0}
    numbers = {"nonfinite_episodes": 0, "loss": [1.0], "loss_median": [1.0], "inner_compute": [1.0]}
    process = {"commit": "abc", "command": "none", "hardware": "elsewhere"}
    return {"seed": config.seed, **seconds, **numbers, **process}
