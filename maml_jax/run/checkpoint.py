"""Checkpoints of the whole TrainState with Orbax, with checksums and the config of their run.

Reading never writes: `newest` only reads. A checkpoint that is damaged gives way to the one before.
One of another config or program, or one that cannot be read at the moment, ends the call.
"""

import json
import pathlib
import zlib
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from maml_jax.errors import UsageError
from maml_jax.parallel.hosts import is_writer, shared
from maml_jax.run.config import resume_conflicts
from maml_jax.run.files import DamagedError, Record, loads, read, unwritable, writing
from maml_jax.run.messages import note
from maml_jax.run.orbax import own_files, quiet_orbax, restore_with_orbax
from maml_jax.types import PyTree, TrainState

_METADATA = "_CHECKPOINT_METADATA"  # Orbax's own file, which also holds what is given to it
_SHOWN = 3  # differences that a message names

Leaves = dict[str, list[Any]]  # path -> [shape, dtype, crc32 of the bytes]


class Restored(NamedTuple):
    """A checkpoint that was read."""

    state: TrainState
    about: Record  # what was saved beside the state; empty if an older version wrote it
    damaged: list[pathlib.Path]  # newer checkpoints, which cannot be used


def _to_host(state: TrainState) -> TrainState:
    """Numpy leaves: a checkpoint then fits any number of devices."""
    host: TrainState = jax.device_get(state._replace(key=jax.random.key_data(state.key)))
    return host


def _from_host(tree: Any, key: jax.Array) -> TrainState:
    state = TrainState(*jax.tree.map(jax.numpy.asarray, tree))
    return state._replace(key=jax.random.wrap_key_data(state.key, impl=jax.random.key_impl(key)))


def _leaves(tree: PyTree) -> Leaves:
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        leaves[name] = [list(array.shape), str(array.dtype), zlib.crc32(array.tobytes())]
    return leaves


def _checksum(about: Record) -> int:
    return zlib.crc32(json.dumps(about, sort_keys=True).encode())


def _steps(directory: pathlib.Path) -> list[int]:
    """The steps of all finished checkpoints, the newest last."""
    try:
        return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UsageError(f"{directory} cannot be read ({error.strerror})") from error


def _read_about(checkpoint: pathlib.Path) -> Record:
    """What was saved beside the state; empty if an older version wrote the checkpoint.

    Raises:
      DamagedError: it is missing or changed.
    """
    text = read(checkpoint / _METADATA)
    if text is None:
        raise DamagedError(f"{_METADATA} is missing")
    custom = loads(text, _METADATA).get("custom_metadata")
    if custom == {}:
        return {}
    about = custom.get("run") if isinstance(custom, dict) else None
    if not isinstance(about, dict) or about.pop("checksum", None) != _checksum(about):
        raise DamagedError(f"{_METADATA} has a wrong checksum")
    return about


def _check_config(checkpoint: pathlib.Path, about: Record, config: Record) -> None:
    if changed := resume_conflicts(config, about["config"]):
        raise UsageError(
            f"checkpoint {checkpoint} is of a run with another config ({'; '.join(changed)}); "
            "nothing was changed. Use that run's config, or another --workdir"
        )


def has_checkpoint(directory: pathlib.Path) -> bool:
    """Whether there is one, damaged or not.

    Raises:
      UsageError: the folder cannot be read.
    """
    return bool(_steps(directory))


def check_config(directory: pathlib.Path, config: Record) -> None:
    """Compares a config with that of the newest checkpoint that can be read.

    Raises:
      UsageError: they differ.
    """
    for step in reversed(_steps(directory)):
        try:
            about = _read_about(directory / str(step))
        except DamagedError:
            continue
        if about:
            _check_config(directory / str(step), about, config)
        return


def _check_fits(checkpoint: pathlib.Path, saved: Leaves, expected: Leaves) -> None:
    """Compares paths, shapes and dtypes with those of the program."""
    unlike = []
    for path in sorted(saved.keys() | expected.keys()):
        have, want = (
            f"{of[path][1]}{of[path][0]}" if path in of else "missing" for of in (saved, expected)
        )
        if have != want:
            unlike.append(f"{path} is {have}, the program has {want}")
    if unlike:
        more = f"; and {len(unlike) - _SHOWN} more" if len(unlike) > _SHOWN else ""
        raise UsageError(
            f"checkpoint {checkpoint} does not fit the program ({'; '.join(unlike[:_SHOWN])}"
            f"{more}); nothing was changed. Use the config and the version that wrote it, or "
            "another --workdir"
        )


def _read(checkpoint: pathlib.Path, template: TrainState, config: Record) -> Restored:
    host, about = _to_host(template), _read_about(checkpoint)
    if about:
        _check_config(checkpoint, about, config)
        _check_fits(checkpoint, about["leaves"], _leaves(host))
    tree = restore_with_orbax(checkpoint, host)
    leaves = _leaves(tree)
    if not about:
        _check_fits(checkpoint, leaves, _leaves(host))
        note(f"checkpoint {checkpoint} is of an older version: it has no checksums and no config")
    elif changed := [path for path, leaf in about["leaves"].items() if leaves[path] != leaf]:
        raise DamagedError(f"{changed[0]} has a wrong checksum")
    return Restored(_from_host(tree, template.key), about, [])


def newest(directory: pathlib.Path, template: TrainState, config: Record) -> Restored | None:
    """Reads the newest checkpoint that is not damaged; None if there are no checkpoints.

    Args:
      directory: the folder of the checkpoints.
      template: a state of the same structure, such as the initial one; not changed.
      config: of the run, as plain JSON.

    Raises:
      UsageError: there are checkpoints and all are damaged, or the newest is of another config or
        program, or it cannot be read at the moment. Nothing was changed.
    """

    def of_writer() -> Restored | None:
        found = _newest(directory, template, config)
        return found and found._replace(state=_to_host(found.state))

    restored = shared(of_writer)
    return restored and restored._replace(state=_from_host(restored.state, template.key))


def _newest(directory: pathlib.Path, template: TrainState, config: Record) -> Restored | None:
    steps, damaged = _steps(directory), dict[pathlib.Path, str]()
    for step in reversed(steps):
        checkpoint = directory / str(step)
        try:
            restored = _read(checkpoint, template, config)
        except DamagedError as error:
            if _steps(directory) != steps:  # a run has replaced the checkpoint meanwhile
                return _newest(directory, template, config)
            damaged[checkpoint] = str(error)
            continue
        for path, reason in damaged.items():
            note(f"checkpoint {path} is damaged ({reason}); using the one before, {checkpoint}")
        return restored._replace(damaged=list(damaged))
    if damaged:
        raise UsageError(
            f"none of the checkpoints {list(reversed(steps))} in {directory} can be read "
            f"({'; '.join(damaged.values())}); nothing was changed. Restore one from a copy, or "
            f"remove {directory} to begin without them"
        )
    return None


def every(directory: pathlib.Path, template: TrainState, config: Record) -> list[Restored]:
    """Reads all checkpoints that are not damaged, the oldest first; arguments as of `newest`.

    Raises:
      UsageError: one is of another config or program, or cannot be read at the moment.
    """

    def of_writer() -> list[Restored]:
        found = []
        for step in _steps(directory):
            try:
                restored = _read(directory / str(step), template, config)
            except DamagedError as error:
                note(f"checkpoint {directory / str(step)} is damaged ({error}); leaving it out")
            else:
                found.append(restored._replace(state=_to_host(restored.state)))
        return found

    return [of._replace(state=_from_host(of.state, template.key)) for of in shared(of_writer)]


class Checkpoints:
    """Writes the checkpoints of one run, into DIRECTORY/STEP."""

    def __init__(self, directory: str | pathlib.Path, config: Record, keep: int | None) -> None:
        """Keeps the newest `keep`, or all; `config` is saved beside every state."""
        self._directory = pathlib.Path(directory)
        self._config = config
        self._keep = keep

    @cached_property
    def _manager(self) -> ocp.CheckpointManager:
        quiet_orbax()
        self._directory.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self._keep,
            create=False,
            cleanup_tmp_directories=True,  # of killed writers
            lightweight_initialize=True,  # else damaged metadata would end the call
            multiprocessing_options=own_files(),
        )
        return ocp.CheckpointManager(self._directory.absolute(), options=options)

    def restore(self, template: TrainState) -> Restored | None:
        """Reads as `newest` does, and moves the damaged ones into damaged_NAME beside the folder.

        Of several processes, only the writer has checkpoints, and the others get what it reads.

        Raises:
          UsageError: see `newest`.
        """
        restored = newest(self._directory, template, self._config)
        for checkpoint in restored.damaged if restored and is_writer() else []:
            aside = self._directory.with_name(f"damaged_{self._directory.name}")
            target, number = aside / checkpoint.name, 1
            with writing(target):
                aside.mkdir(exist_ok=True)
                while target.exists():
                    target, number = aside / f"{checkpoint.name}.{number}", number + 1
                checkpoint.rename(target)
        return restored

    def save(self, state: TrainState, **about: Any) -> None:
        """Writes the state in the background, unless its step has a checkpoint already.

        Args:
          state: the state.
          **about: plain JSON to be read back with it.

        Raises:
          UsageError: this checkpoint or the one before cannot be written.
        """
        step = int(state.step)
        if not is_writer():
            return
        try:
            if step in self._manager.all_steps():
                return
            host = _to_host(state)
            about |= {"config": self._config, "leaves": _leaves(host)}
            about["checksum"] = _checksum(about)
            self._manager.save(
                step, args=ocp.args.StandardSave(host), custom_metadata={"run": about}
            )
        except Exception as error:  # Orbax raises many kinds for what the system refuses
            raise unwritable(self._directory, error) from error

    def delete(self, step: int) -> None:
        """Removes a checkpoint.

        Raises:
          UsageError: it cannot be removed.
        """
        if not is_writer():
            return
        self.wait()
        try:
            self._manager.delete(step)
        except Exception as error:
            raise unwritable(self._directory, error) from error

    def wait(self) -> None:
        """Waits until checkpoints are written.

        Raises:
          UsageError: the last checkpoint cannot be written.
        """
        try:
            if "_manager" in vars(self):
                self._manager.wait_until_finished()
        except Exception as error:
            raise unwritable(self._directory, error) from error

    def close(self) -> None:
        """Waits, and ends the threads that write.

        Raises:
          UsageError: the last checkpoint cannot be written.
        """
        self.wait()
        if "_manager" in vars(self):
            self._manager.close()
