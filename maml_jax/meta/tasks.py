"""The one place where work on one task becomes work on many: keys, vmap, chunks and reductions."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from maml_jax.types import Array, PyTree


def task_keys(key: Array, step: Array, task_indices: Array) -> Array:
    """Keys [B] of the tasks with these GLOBAL indices [B] at a meta-step.

    fold_in(fold_in(key, step), index): the same whatever device, chunk or dispatch draws the task.
    """
    step_key = jax.random.fold_in(key, step)
    return jax.vmap(jax.random.fold_in, (None, 0))(step_key, task_indices)


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`, and at least 1."""
    return max(size for size in range(1, max(limit, 1) + 1) if number % size == 0)


def map_tasks(fn: Callable[..., PyTree], *per_task: PyTree, chunk: int | None = None) -> PyTree:
    """fn over the leading task axis: one vmap, or a scan over vmapped chunks to bound memory."""
    if chunk is None:
        return jax.vmap(fn)(*per_task)
    return jax.lax.map(lambda args: fn(*args), per_task, batch_size=chunk)


def sum_over_tasks(
    fn: Callable[..., PyTree], *per_task: PyTree, chunk: int | None = None
) -> PyTree:
    """Σ over tasks of fn; in chunks, sums are accumulated and per-task values never stored.

    A chunk that does not divide the number of tasks is lowered to the next that does.
    """

    def chunk_sum(args: tuple[PyTree, ...]) -> PyTree:
        return jax.tree.map(lambda leaf: leaf.sum(0), jax.vmap(fn)(*args))

    number = jax.tree.leaves(per_task)[0].shape[0]
    if chunk is None or chunk >= number:
        return chunk_sum(per_task)
    chunk = largest_divisor(number, chunk)
    chunks = jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), per_task)
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(chunk_sum, jax.tree.map(lambda x: x[0], chunks)),
    )

    def accumulate(total: PyTree, args: tuple[PyTree, ...]) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, chunk_sum(args)), None

    return jax.lax.scan(accumulate, zeros, chunks)[0]
