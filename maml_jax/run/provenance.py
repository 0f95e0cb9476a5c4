"""Provenance of a result: command, commit, hardware and library versions."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

import jax

import maml_jax
from maml_jax.run import files

COMMANDS = "commands.txt"  # of a run
KEYS = ("command", "commit", "hardware", "versions")  # of what `describe` returns
COMMIT_VARIABLE = "MAML_JAX_COMMIT"  # names the commit where the code is a copy without git
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")
VARIABLES = ("JAX_PLATFORMS", "XLA_FLAGS", "JAX_DEFAULT_MATMUL_PRECISION")


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")


def _commit() -> str:
    here = os.path.dirname(os.path.abspath(__file__))
    if named := os.environ.get(COMMIT_VARIABLE):
        return named
    describe = ["git", "-C", here, "describe", "--always", "--dirty"]
    try:
        run = subprocess.run(describe, capture_output=True, encoding="utf-8", errors="replace")
    except OSError:  # there is no git
        return "unknown"
    return run.stdout.strip() or "unknown"


def module() -> str:
    """The name of the module that was started with python -m; empty if none was."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return str(spec.name) if spec else ""


def command() -> str:
    """The command line as a user types it: python -m MODULE ARGS."""
    name = f"-m {module()}" if module() else os.path.basename(sys.argv[0])
    return " ".join(["python", name, *sys.argv[1:]])


def note_command(folder: pathlib.Path) -> None:
    """Adds this command to those that have made a run, unless it only continues the run.

    Raises:
      UsageError: the file cannot be written.
    """
    earlier = commands(folder)
    if earlier and (command() in earlier or all(of.startswith("--workdir") for of in sys.argv[1:])):
        return
    files.write(folder / COMMANDS, "\n".join([*earlier, command()]) + "\n")


def commands(folder: pathlib.Path) -> list[str]:
    """The commands that have made a run, first the one that started it."""
    try:
        return (folder / COMMANDS).read_text("utf-8", "replace").splitlines()
    except OSError:
        return []


def of_process() -> dict[str, Any]:
    """Devices and versions of this process."""
    devices = jax.devices()
    return {
        "hardware": f"{len(devices)} x {devices[0].device_kind}, {os.cpu_count()} CPU cores "
        f"({_processor()})",
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in LIBRARIES},
        },
    }


def describe() -> dict[str, Any]:
    """Command, commit, devices and versions of this process."""
    return {"command": command(), "commit": _commit(), **of_process()}


def report() -> str:
    """What a report of an issue needs: versions, commit, system and devices."""
    process = of_process()
    libraries = ", ".join(f"{name} {of}" for name, of in process["versions"].items())
    variables = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    return "\n".join(
        [
            f"maml_jax {maml_jax.__version__}, commit {_commit()}",
            libraries,
            platform.platform(),
            process["hardware"],
            *variables,
        ]
    )
