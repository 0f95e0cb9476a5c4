"""Every use of randomness, in one place: which key is derived from which.

A run has one seed. Each of its streams has a key of its own. Task b of meta-step t is drawn with
fold_in(fold_in(stream, t), b), where b is the global index of the task: the tasks do not depend on
the number of devices, on chunks, on the dispatch length, or on where a run was resumed.
Evaluation draws its tasks at a meta-step of its own, so that one key can be used for both.
"""

import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp

from maml_jax.types import Array

STREAMS = {"init": 0, "train": 1, "validation": 2, "test": 3, "lengths": 4}
EVALUATION = -1  # a meta-step that training never reaches
_GATES = 2
_OUTER_STEP = -1  # the index of no task


class ObjectiveKeys(NamedTuple):
    """Keys of one task's objective."""

    adapt: Array  # [], of the inner loop
    query: Array  # [], of the query loss
    gates: Array  # [], of the noise of the gates


def stream_key(seed: int, stream: str) -> Array:
    """The key of a stream in `STREAMS`; the seed changes all of them."""
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), STREAMS[stream])


def check_key(key: Array) -> None:
    """Checks that a key gives the same numbers in any batch of keys.

    Raises:
      TypeError: it is no key.
      ValueError: numbers depend on the other keys of a batch, and so on chunks and devices.
    """
    try:
        kind = jax.random.key_impl(key)
    except (TypeError, ValueError) as error:
        raise TypeError(f"key={key!r} is no key; give jax.random.key(seed)") from error
    if kind in ("rbg", "unsafe_rbg"):
        raise ValueError(
            f"a key of the kind {kind!r} draws other tasks on other devices and in other chunks; "
            "give jax.random.key(seed, impl='threefry2x32')"
        )


def task_keys(key: Array, step: Array, task_indices: Array) -> Array:
    """Keys [B] of the tasks with these global indices [B] at a meta-step []."""
    check_key(key)
    step_key = jax.random.fold_in(key, step)
    return jax.vmap(jax.random.fold_in, (None, 0))(step_key, task_indices)


def outer_step_key(key: Array, step: Array) -> Array:
    """The key [] of the outer step's own randomness."""
    return task_keys(key, step, jnp.array([_OUTER_STEP]))[0]


def split_task_key(key: Array) -> tuple[Array, Array]:
    """Keys of a task's episode and of its objective, in training and in evaluation alike."""
    episode_key, objective_key = jax.random.split(key)
    return episode_key, objective_key


def split_objective_key(key: Array) -> ObjectiveKeys:
    """Keys of the inner loop, of the query loss and of the gates."""
    adapt_key, query_key = jax.random.split(key)
    return ObjectiveKeys(adapt_key, query_key, gate_key(key))


def gate_key(key: Array) -> Array:
    """The key of the noise of one task's gates."""
    return jax.random.fold_in(key, _GATES)


def inner_step_key(key: Array, k: Array) -> Array:
    """The key of the support loss at inner step k []."""
    return jax.random.fold_in(key, k)


def group_key(key: Array, index: int) -> Array:
    """The key of one group of parameters that share a learned value."""
    return jax.random.fold_in(key, index)


def named_key(key: Array, name: str) -> Array:
    """The key of what has this name, whatever its place among others."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
