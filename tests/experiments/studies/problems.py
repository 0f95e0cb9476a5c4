"""A tiny study, and the record of a run that is not trained."""

import json
import pathlib
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
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


def alone(*_: object, **__: object) -> None:
    """In place of `train_all`: every run is trained when it is asked for."""


def finished_run(config: ConfigDict, workdir: pathlib.Path) -> Record:
    """Leaves what a run does that is not trained: its losses are random, but always the same."""
    loss, median, score = np.random.default_rng(zlib.crc32(workdir.name.encode())).random(3)
    seconds = {"train_seconds": 1.0, "evaluate_seconds": 1.0}
    numbers = {"loss": [loss], "loss_median": [median], "inner_compute": [2.0]}
    process = {"commit": "abc", "command": "none", "hardware": "elsewhere"}
    record = {"seed": config.seed, "nonfinite_episodes": 0, **seconds, **numbers, **process}
    if config.algorithm == "adaptive_k":
        statistics = ("mean", "p90", "p99", "max", "share_at_0", "share_at_most")
        record["lengths"] = {f"length/{name}": loss for name in statistics}
        record["length_counts"] = {"w": [1, 2, 3]}
    validation = {"step": 10, "validation_score": score, "validation_nonfinite": 0}
    (workdir / "metrics.jsonl").write_text(json.dumps(validation) + "\n")
    (workdir / "evaluation.json").write_text(json.dumps(record))
    return record
