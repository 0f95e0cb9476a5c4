"""A tiny run, in this process or as the binaries run it."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache

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


def call(
    arguments: list[str], environment: Mapping[str, str] = ENVIRONMENT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )


# Imports once, then forks for every line of arguments, and answers [exit code, stdout, stderr].
_FORKS = """
import json, os, runpy, sys, tempfile
import experiments.cli, maml_jax.run.comparison, maml_jax.run.loop, maml_jax.run.report

for line in sys.stdin:
    module, *arguments = json.loads(line)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv = [module, *arguments]
            runpy.run_module(f"experiments.{module}", run_name="__main__", alter_sys=True)
            sys.exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = [(file.seek(0), file.read())[1] for file in (out, err)]
        print(json.dumps([code, *texts]), flush=True)
"""


@cache
def _forks(environment: tuple[tuple[str, str], ...]) -> subprocess.Popen[str]:
    """The program that forks, which ends with this process."""
    return subprocess.Popen(
        [sys.executable, "-c", _FORKS],
        cwd=ROOT,
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def call_all(
    commands: Sequence[list[str]], environment: Mapping[str, str] = ENVIRONMENT
) -> list[subprocess.CompletedProcess[str]]:
    """Calls binaries in turn, each given as [module, *arguments], at the price of one import."""
    forks = _forks(tuple(sorted(environment.items())))
    assert forks.stdin is not None
    assert forks.stdout is not None
    done = []
    for arguments in commands:
        forks.stdin.write(json.dumps(arguments) + "\n")
        forks.stdin.flush()
        code, out, err = json.loads(forks.stdout.readline())
        done.append(subprocess.CompletedProcess(arguments, code, out, err))
    return done
