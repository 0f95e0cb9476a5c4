"""Maps and sums over tasks, with vmap and in chunks."""

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import jax
import jax.numpy as jnp

from maml_jax.types import Array, PyTree

T = TypeVar("T")
PerTask = TypeVarTuple("PerTask")


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`, and at least 1."""
    return max(size for size in range(1, max(limit, 1) + 1) if number % size == 0)


def map_tasks(fn: Callable[[*PerTask], T], *per_task: *PerTask, chunk: int | None = None) -> T:
    """Maps fn over the leading task axis with vmap, or with a scan over chunks to bound memory."""
    if chunk is None:
        return jax.vmap(fn)(*per_task)
    mapped: T = jax.lax.map(lambda args: fn(*args), per_task, batch_size=chunk)
    return mapped


def sum_over_tasks(fn: Callable[[*PerTask], T], *per_task: *PerTask, chunk: int | None = None) -> T:
    """Sums fn over tasks. With chunks, sums are accumulated and per-task values are not stored.

    A chunk size that does not divide the number of tasks is reduced to the next one that does. Sums
    of floats that are narrower than float32 are float32.
    """

    def sum_of(leaf: Array) -> Array:
        is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.sum(0, dtype=jnp.promote_types(leaf.dtype, jnp.float32) if is_float else None)

    def chunk_sum(args: tuple[*PerTask]) -> T:
        total: T = jax.tree.map(sum_of, jax.vmap(fn)(*args))
        return total

    number = jax.tree.leaves(per_task)[0].shape[0]
    if chunk is None or chunk >= number:
        return chunk_sum(per_task)
    chunk = largest_divisor(number, chunk)
    chunks = jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), per_task)
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(chunk_sum, jax.tree.map(lambda x: x[0], chunks)),
    )

    def accumulate(total: PyTree, args: tuple[*PerTask]) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, chunk_sum(args)), None

    total: T = jax.lax.scan(accumulate, zeros, chunks)[0]
    return total
