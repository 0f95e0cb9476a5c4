"""A tiny run, in this process or as the binaries run it."""

import os
import pathlib
import subprocess
import sys

from ml_collections import ConfigDict

from maml_jax.run.config import default_config
from tests.conftest import COMPILE_FAST

ROOT = pathlib.Path(__file__).parents[2]
TINY = {
    "num_meta_steps": 60,
    "meta_batch_size": 8,
    "steps_per_dispatch": 10,
    "log_every": 10,
    "model.hidden": (8,),
    "eval.num_episodes": 16,
    "eval.query_shots": 5,
    "eval.num_steps": 10,
    "eval.chunk": 8,
    "checkpoint.every": 20,
    "baselines": (),
}


def tiny_config(**changes: object) -> ConfigDict:
    config = default_config()
    config.update_from_flattened_dict(
        TINY | {key.replace("__", "."): v for key, v in changes.items()}
    )
    return config


def command(module: str, *arguments: str, **changes: object) -> list[str]:
    keys = TINY | {key.replace("__", "."): v for key, v in changes.items()}
    overrides = [f"--config.{key}={value}" for key, value in keys.items()]
    return [sys.executable, "-m", f"experiments.{module}", *arguments, *overrides]


ENVIRONMENT = os.environ | {"XLA_FLAGS": COMPILE_FAST}  # one device


def call(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
