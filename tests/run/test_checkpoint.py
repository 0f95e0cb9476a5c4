"""Checkpoints that are damaged, of another run, or hard to read: the right state or one line."""

import errno
import pathlib
import random
import shutil
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from maml_jax.errors import UsageError
from maml_jax.run import checkpoint as checkpoint_module
from maml_jax.run.checkpoint import Checkpoints, check_config, newest
from maml_jax.run.files import DamagedError
from maml_jax.run.workdir import as_json
from maml_jax.types import MetaParams, TrainState
from tests.run.runs import tiny_config

CONFIG = as_json(tiny_config())


def state(step: int, **init: jax.Array) -> TrainState:
    init = {"w": step + jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3, jnp.bfloat16)} | init
    meta_params = MetaParams(init, step_sizes=jnp.float32(0.1))
    zero = jnp.int32(0)
    return TrainState(jnp.int32(step), meta_params, {"mu": jnp.zeros(3)}, jax.random.key(7), zero)


def write(directory: pathlib.Path, *steps: int, keep: int = 2) -> pathlib.Path:
    checkpoints = Checkpoints(directory, CONFIG, keep)
    for step in steps:
        checkpoints.save(state(step), log=str(step))
    checkpoints.close()
    return directory


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write(tmp_path_factory.mktemp("run") / "checkpoints", 20, 40)


@pytest.fixture
def directory(written: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(written, tmp_path / "checkpoints"))


def content(folder: pathlib.Path) -> dict[pathlib.Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_is(got: TrainState, step: int) -> None:
    want = state(step)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for have, expected in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert have.dtype == expected.dtype
        if not jax.dtypes.issubdtype(have.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(np.asarray(have), np.asarray(expected))
    np.testing.assert_array_equal(jax.random.key_data(got.key), jax.random.key_data(want.key))


def test_a_checkpoint_has_the_state_and_what_was_saved_beside_it(directory: pathlib.Path) -> None:
    restored = newest(directory, state(0), CONFIG)
    assert_is(restored.state, 40)
    assert restored.about["log"] == "40"
    assert restored.about["config"] == CONFIG
    assert newest(directory / "nothing", state(0), CONFIG) is None


def flip(data: bytes, generator: random.Random) -> bytes:
    place, bit = generator.randrange(len(data)), generator.randrange(8)
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "flipped": flip,
    "cut": lambda data, _: data[: len(data) // 2],
    "empty": lambda data, _: b"",
    "zeros": lambda data, _: bytes(len(data)),
}


@pytest.mark.parametrize("kind", [*DAMAGES, "removed"])
def test_damage_of_any_file_never_loads_a_wrong_state(directory: pathlib.Path, kind: str) -> None:
    generator = random.Random(0)
    before, steps = content(directory), set()
    newest_files = [path for path in before if path.is_relative_to(directory / "40")]
    for path in newest_files * (3 if kind == "flipped" else 1):
        if kind == "removed":
            path.unlink()
        else:
            path.write_bytes(DAMAGES[kind](before[path], generator))
        damaged = content(directory)
        restored = newest(directory, state(0), CONFIG)
        assert content(directory) == damaged  # reading never writes
        step = int(restored.state.step)
        assert_is(restored.state, step)
        steps.add(step)
        path.write_bytes(before[path])
    assert 20 in steps


def test_a_flipped_bit_of_a_tensor_is_found(
    directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = checkpoint_module.restore_with_orbax

    def flipped(path: pathlib.Path, host: TrainState) -> TrainState:
        tree = read(path, host)
        if path.name == "40":
            weights = np.array(tree.meta_params.init["w"])
            weights.view(np.uint32)[0, 0] ^= 1
            tree.meta_params.init["w"] = weights
        return tree

    monkeypatch.setattr(checkpoint_module, "restore_with_orbax", flipped)
    restored = newest(directory, state(0), CONFIG)
    assert_is(restored.state, 20)
    assert restored.damaged == [directory / "40"]


def spoil(checkpoint: pathlib.Path) -> None:
    for path in checkpoint.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_run_goes_on_from_the_one_before_and_keeps_the_damaged_one(
    directory: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(directory / "40")
    damaged = content(directory / "40")
    checkpoints = Checkpoints(directory, CONFIG, keep=2)
    restored = checkpoints.restore(state(0))
    assert_is(restored.state, 20)
    (line,) = capsys.readouterr().err.splitlines()
    assert "40 is damaged" in line
    assert "using the one before" in line
    aside = directory.parent / "damaged_checkpoints" / "40"
    assert list(content(aside).values()) == list(damaged.values())
    checkpoints.save(state(40))
    checkpoints.close()
    assert_is(newest(directory, state(0), CONFIG).state, 40)


def test_if_all_are_damaged_the_call_ends_and_nothing_is_changed(directory: pathlib.Path) -> None:
    spoil(directory / "20")
    spoil(directory / "40")
    before = content(directory.parent)
    for read in (newest, lambda *of: Checkpoints(directory, CONFIG, 2).restore(state(0))):
        with pytest.raises(UsageError, match=r"none of the checkpoints \[40, 20\].*begin without"):
            read(directory, state(0), CONFIG)
    assert content(directory.parent) == before


MISFITS = {
    "a leaf more": (state(0, c=jnp.zeros(2)), "init/c is missing, the program has float32"),
    "another shape": (state(0, w=jnp.zeros((3, 2))), r"init/w is float32\[2, 3\], .*\[3, 2\]"),
    "another dtype": (state(0, b=jnp.ones(3)), r"init/b is bfloat16\[3\], .* float32\[3\]"),
    "another optimizer": (state(0)._replace(outer_state=()), "outer_state/mu is float32"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_the_program_is_named_and_left_alone(
    directory: pathlib.Path, name: str
) -> None:
    template, message = MISFITS[name]
    before = content(directory.parent)
    with pytest.raises(UsageError, match=f"does not fit the program .*{message}") as caught:
        Checkpoints(directory, CONFIG, 2).restore(template)
    assert not isinstance(caught.value, DamagedError)
    assert content(directory.parent) == before


def test_a_checkpoint_of_another_config_is_refused(directory: pathlib.Path) -> None:
    other = as_json(tiny_config(seed=1, algorithm="fomaml"))
    message = r"another config \(algorithm: maml -> fomaml; seed: 0 -> 1\)"
    with pytest.raises(UsageError, match=message):
        newest(directory, state(0), other)
    with pytest.raises(UsageError, match=message):
        check_config(directory, other)
    free = as_json(tiny_config(eval__num_episodes=3, checkpoint__keep=1))
    check_config(directory, free)
    assert_is(newest(directory, state(0), free).state, 40)


def test_a_passing_fault_is_no_damage(
    directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore, calls = ocp.StandardCheckpointer.restore, []

    def fails_once(self: object, *of: object) -> object:
        calls.append(of)
        if len(calls) == 1:
            raise OSError(errno.EIO, "Input/output error")
        return restore(self, *of)

    monkeypatch.setattr(ocp.StandardCheckpointer, "restore", fails_once)
    assert_is(newest(directory, state(0), CONFIG).state, 40)


def test_what_cannot_be_read_at_the_moment_ends_the_call(
    directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(ocp.StandardCheckpointer, "restore", fails)
    monkeypatch.setattr(pathlib.Path, "read_bytes", fails)
    with pytest.raises(UsageError, match=r"cannot be read at the moment .*Input/output") as caught:
        Checkpoints(directory, CONFIG, 2).restore(state(0))
    assert not isinstance(caught.value, DamagedError)
    assert sorted(path.name for path in directory.iterdir()) == ["20", "40"]


def test_a_reader_beside_a_run_takes_the_next_checkpoint(
    directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, calls = checkpoint_module.restore_with_orbax, []

    def replaced(path: pathlib.Path, host: TrainState) -> TrainState:
        calls.append(path.name)
        if len(calls) == 1:  # the run writes 60 and 80, and removes 20 and 40
            write(directory, 60, 80)
        return read(path, host)

    monkeypatch.setattr(checkpoint_module, "restore_with_orbax", replaced)
    assert_is(newest(directory, state(0), CONFIG).state, 80)
    assert calls == ["40", "80"]


def test_a_checkpoint_of_an_older_version_is_used_with_a_note(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = checkpoint_module._to_host(state(5))
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        manager.save(5, args=ocp.args.StandardSave(host))
    restored = newest(tmp_path / "checkpoints", state(0), CONFIG)
    assert_is(restored.state, 5)
    assert restored.about == {}
    assert "older version: it has no checksums" in capsys.readouterr().err
    for kind in ("a leaf more", "another shape", "another optimizer"):
        with pytest.raises(UsageError):
            newest(tmp_path / "checkpoints", MISFITS[kind][0], CONFIG)
    assert (tmp_path / "checkpoints" / "5").is_dir()


def test_what_a_killed_writer_left_is_removed(directory: pathlib.Path) -> None:
    (directory / "60.orbax-checkpoint-tmp").mkdir()
    assert_is(newest(directory, state(0), CONFIG).state, 40)
    write(directory, 60)
    assert sorted(path.name for path in directory.iterdir()) == ["40", "60"]


def test_a_checkpoint_that_cannot_be_written_is_one_line(
    directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    with pytest.raises(UsageError, match=r"checkpoints cannot be written \(No space left"):
        write(directory, 60)
    assert_is(newest(directory, state(0), CONFIG).state, 40)
