"""Keys of tasks, and maps and sums over tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maml_jax.keys import EVALUATION, task_keys
from maml_jax.meta.batching import map_tasks, sum_over_tasks
from tests.inner.problems import assert_close


def test_task_keys_depend_only_on_key_step_and_global_index():
    key = jax.random.key(0)
    whole = jax.random.key_data(task_keys(key, jnp.asarray(3), jnp.arange(8)))
    parts = [
        jax.random.key_data(task_keys(key, jnp.asarray(3), i)) for i in jnp.arange(8).reshape(4, 2)
    ]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    for b, data in enumerate(whole):
        expected = jax.random.fold_in(jax.random.fold_in(key, 3), b)
        np.testing.assert_array_equal(data, jax.random.key_data(expected))


def test_task_keys_differ_between_tasks_steps_and_seeds():
    keys = [
        task_keys(jax.random.key(seed), jnp.asarray(step), jnp.arange(-1, 8))
        for seed in range(3)
        for step in range(4)
    ]
    data = np.concatenate([jax.random.key_data(k) for k in keys])
    assert len(np.unique(data, axis=0)) == 3 * 4 * 9


@pytest.mark.parametrize("chunk", [None, 1, 2, 3, 6, 100])
def test_maps_and_sums_over_tasks_do_not_depend_on_the_chunk_size(chunk):
    xs, ys = jnp.arange(6.0), jnp.arange(12.0).reshape(6, 2)

    def fn(x, y):
        return {"product": x * y, "square": x**2}

    expected = {"product": xs[:, None] * ys, "square": xs**2}
    assert_close(map_tasks(fn, xs, ys, chunk=chunk), expected)
    total = jax.tree.map(lambda leaf: leaf.sum(0), expected)
    assert_close(sum_over_tasks(fn, xs, ys, chunk=chunk), total)


@pytest.mark.parametrize("chunk", [4, 5])
def test_maps_have_a_smaller_last_chunk_and_sums_reduce_all_chunks(chunk):
    assert_close(map_tasks(jnp.square, jnp.arange(6.0), chunk=chunk), jnp.arange(6.0) ** 2)
    assert_close(sum_over_tasks(jnp.square, jnp.arange(6.0), chunk=chunk), jnp.asarray(55.0))
    number = jax.make_jaxpr(lambda x: sum_over_tasks(jnp.square, x, chunk=chunk))(jnp.arange(6.0))
    assert "f32[2,3]" in str(number)  # two chunks of three


@pytest.mark.parametrize("chunk", [None, 1, 7])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_floats_are_summed_in_float32(dtype, chunk):
    total = sum_over_tasks(lambda x: x, jnp.full(4097, 16, dtype), chunk=chunk)
    assert total.dtype == jnp.float32
    assert total == 4097 * 16


def test_no_meta_step_draws_the_tasks_of_an_evaluation():
    key = jax.random.key(0)
    steps = (*range(5), 2**31 - 1, EVALUATION)
    data = np.concatenate(
        [jax.random.key_data(task_keys(key, jnp.int32(step), jnp.arange(-1, 8))) for step in steps]
    )
    assert len(np.unique(data, axis=0)) == len(steps) * 9
