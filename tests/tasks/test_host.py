"""Episodes from the host: the same as those of the device, from any meta-step on."""

import chex
import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maml_jax import keys
from maml_jax.tasks.episodes import ROTATIONS, Pool, make_sampler, normalise
from maml_jax.tasks.host import HostFeed, host_episodes
from tests.tasks.problems import SHAPE, SIZE, UNDRAWABLE, make_pool


@pytest.mark.parametrize("rotation", ROTATIONS)
def test_host_and_device_draw_the_same_episodes_bit_for_bit(rotation, tmp_path):
    pool = make_pool([4, 6, 3, 6, 6, 5, 3])
    np.save(tmp_path / "images.npy", pool.images)
    mapped = Pool(np.load(tmp_path / "images.npy", mmap_mode="r"), pool.counts)
    key, tasks = jax.random.key(7), [3, 4, 5, 6]
    host = host_episodes(mapped, key, tasks, rotation=rotation, **SHAPE)
    sample = make_sampler(pool, rotation=rotation, **SHAPE)

    def of_task(task_key):  # as a meta-step does
        episode_key, _ = jax.random.split(task_key)
        return sample(episode_key)

    for step in (0, 5):
        device = jax.jit(jax.vmap(of_task))(keys.task_keys(key, step, jnp.array(tasks)))
        assert host[step].support.inputs.dtype == np.uint8
        chex.assert_trees_all_equal(jax.jit(normalise)(host[step]), device)


def test_the_host_pipeline_resumes_from_a_step_number():
    host = host_episodes(make_pool(), jax.random.key(7), range(2), **SHAPE)
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    resumed = iter(host[5:].to_iter_dataset(options))
    for step in (5, 6, 7):
        chex.assert_trees_all_equal(next(resumed), host[step])
    dispatch = next(iter(host[4:].batch(3).to_iter_dataset(options)))
    chex.assert_shape(dispatch.query.inputs, (3, 2, 6, SIZE, SIZE, 1))
    chex.assert_trees_all_equal(jax.tree.map(lambda x: x[1], dispatch), host[5])


def test_the_feed_follows_the_meta_steps_and_jumps():
    host = host_episodes(make_pool(), jax.random.key(7), range(2), **SHAPE)
    feed = HostFeed(host)
    for first, number in ((3, 2), (5, 1), (0, 2)):
        dispatch = feed(first, number)
        chex.assert_shape(dispatch.query.inputs, (number, 2, 6, SIZE, SIZE, 1))
        for i in range(number):
            element = jax.tree.map(lambda x, i=i: x[i], dispatch)
            chex.assert_trees_all_equal(element, host[first + i])


@pytest.mark.parametrize(("options", "message"), UNDRAWABLE)
def test_what_cannot_be_drawn_is_said_at_start(options, message):
    with pytest.raises(ValueError, match=message):
        host_episodes(make_pool(), jax.random.key(0), range(2), **{**SHAPE, **options})
