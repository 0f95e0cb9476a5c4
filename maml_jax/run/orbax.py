"""Orbax as the checkpoints use it: its noise, its errors and its processes."""

import logging
import pathlib
import sys
from functools import cache
from typing import Any

import jax
import orbax.checkpoint as ocp

from maml_jax.errors import UsageError
from maml_jax.run.files import DamagedError, reason_of
from maml_jax.types import PyTree, TrainState


def own_files() -> ocp.options.MultiprocessingOptions:
    """Orbax in one of several processes, without waiting for the others."""
    process = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f"process_{process}",
    )


def restore_with_orbax(checkpoint: pathlib.Path, host: TrainState) -> PyTree:
    """Reads the state with Orbax, twice where it fails: a passing fault is no damage."""
    quiet_orbax()
    for attempt in (1, 2):
        try:
            with ocp.StandardCheckpointer(multiprocessing_options=own_files()) as checkpointer:
                return checkpointer.restore(checkpoint.absolute() / "default", host)
        except Exception as error:  # Orbax raises many kinds for damaged files
            if attempt == 2:
                _check_readable(checkpoint)
                raise DamagedError(reason_of(error)) from error
    raise AssertionError


@cache
def quiet_orbax() -> None:
    """Drops the pages that are printed about an error that Orbax raises as well."""

    def keep(record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname and "never retrieved" not in record.getMessage()

    def hook(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            before(unraisable)

    # Where one leaf fails, the others are still under way when their event loop ends.
    before, sys.unraisablehook = sys.unraisablehook, hook
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(keep)


def _check_readable(checkpoint: pathlib.Path) -> None:
    try:
        for path in checkpoint.rglob("*"):
            if path.is_file():
                path.read_bytes()
    except FileNotFoundError:  # a run has replaced the checkpoint meanwhile
        return
    except OSError as error:
        raise UsageError(
            f"checkpoint {checkpoint} cannot be read at the moment ({error.strerror}); nothing was "
            "changed. Call the same command again when it can"
        ) from error
