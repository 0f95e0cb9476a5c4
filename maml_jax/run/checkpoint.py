"""Checkpoints of the whole TrainState with Orbax, falling back to the one before a damaged one."""

import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from maml_jax.errors import UsageError
from maml_jax.types import PyTree, TrainState


def _to_host(state: TrainState) -> PyTree:
    """Numpy leaves: a checkpoint then fits any number of devices."""
    return jax.device_get(state._replace(key=jax.random.key_data(state.key)))


def _from_host(tree: Any, key: jax.Array) -> TrainState:
    state = TrainState(*jax.tree.map(jax.numpy.asarray, tree))
    return state._replace(key=jax.random.wrap_key_data(state.key, impl=jax.random.key_impl(key)))


class Checkpoints:
    """The checkpoints of one run, in workdir/checkpoints/STEP."""

    def __init__(self, workdir: pathlib.Path, keep: int = 2, name: str = "checkpoints") -> None:
        """Opens the folder workdir/NAME."""
        self._damaged = workdir / f"damaged_{name}"
        self._directory = (workdir / name).absolute()
        self._keep = keep
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(max_to_keep=self._keep, create=True)
        return ocp.CheckpointManager(self._directory, options=options)

    def save(self, state: TrainState) -> None:
        """Writes the state in the background, unless its step has a checkpoint already."""
        step = int(state.step)
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(_to_host(state)))

    def restore(self, template: TrainState) -> TrainState | None:
        """The newest state that can be read, or None if there is no checkpoint.

        A damaged checkpoint is moved to workdir/damaged_checkpoints with a warning.

        Args:
          template: a state of the same structure, such as the initial one.

        Raises:
          UsageError: there are checkpoints, and none can be read.
        """
        host = _to_host(template)
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                restored = self._manager.restore(step, args=ocp.args.StandardRestore(host))
                return _from_host(_checked(restored, host), template.key)
            except Exception as error:  # Orbax raises many kinds for damaged files
                self._set_aside(step, error)
        if steps:
            raise UsageError(
                f"none of the checkpoints {steps} can be read; they are now in "
                f"{self._damaged}. Use another --workdir to start again"
            )
        return None

    def _set_aside(self, step: int, error: Exception) -> None:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        logging.warning(
            "checkpoint %d is damaged (%s); moved to %s, falling back to the one before",
            step,
            reason,
            self._damaged,
        )
        self._manager.close()
        self._damaged.mkdir(exist_ok=True)
        target = self._damaged / str(step)
        number = 1
        while target.exists():
            target = self._damaged / f"{step}.{number}"
            number += 1
        shutil.move(self._directory / str(step), target)
        self._manager = self._open()

    def close(self) -> None:
        """Waits until checkpoints are written."""
        self._manager.wait_until_finished()
        self._manager.close()


def _checked(restored: PyTree, expected: PyTree) -> PyTree:
    """Raises ValueError if the shape or dtype of a leaf is not as expected."""
    wanted = jax.tree_util.tree_leaves_with_path(expected)
    for (path, want), got in zip(wanted, jax.tree.leaves(restored), strict=True):
        if np.shape(got) != np.shape(want) or np.asarray(got).dtype != np.asarray(want).dtype:
            raise ValueError(f"{jax.tree_util.keystr(path)} has shape {np.shape(got)}")
    return restored
