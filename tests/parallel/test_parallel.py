"""Results do not depend on devices, dispatches or chunks, and tasks are bit-identical."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maml_jax import InnerLoop, MetaParams, evaluate, init_state, make_train_loop, sgd
from maml_jax.keys import EVALUATION, task_keys
from tests.inner.problems import assert_bits_equal, assert_close
from tests.inner.problems import float64 as float64
from tests.marks import slow_but
from tests.meta.problems import (
    TASKS,
    UNIT_STEP,
    bowl,
    fresh_meta_params,
    make_step,
    mean_gradient,
    run,
    sample_point,
)

pytestmark = pytest.mark.usefixtures("float64")
DEVICES = (1, 2, 4, 8)


@cache
def steps_on(devices, dispatches):
    """Returns (state, metrics of every dispatch, bytes of every task that was drawn)."""
    drawn = []

    def sample(key):
        point = sample_point(key)
        # As integers, because a callback may run in a thread without float64.
        bits = jax.lax.bitcast_convert_type(point[0], jnp.uint32)
        jax.debug.callback(lambda x: drawn.append(np.asarray(x).tobytes()), bits)
        return point

    history = run(make_step(sample=sample), devices=devices, dispatches=dispatches)
    jax.effects_barrier()
    return history[-1][0], [metrics for _, metrics in history], drawn


@pytest.mark.parametrize("devices", slow_but([2, 8], DEVICES))
def test_tasks_are_bit_identical_on_any_number_of_devices(devices):
    drawn, reference = steps_on(devices, (1,))[2], steps_on(1, (1,))[2]
    assert len(set(drawn)) == TASKS
    assert sorted(drawn) == sorted(reference)


@pytest.mark.parametrize("devices", DEVICES)
def test_one_meta_gradient_is_the_same_on_any_number_of_devices(devices):
    """This would detect inner gradients that are summed over devices."""
    state, (metrics,), _ = steps_on(devices, (1,))
    gradient = jax.tree.map(jnp.subtract, fresh_meta_params(), state.meta_params)
    assert_close(gradient, mean_gradient(range(TASKS)), rtol=1e-6)
    assert_close((gradient, metrics), (gradient, steps_on(1, (1,))[1][0]), rtol=1e-6)


@pytest.mark.parametrize("devices", [4])
def test_a_dispatch_of_n_steps_equals_n_dispatches(devices):
    state, (metrics,), drawn = steps_on(devices, (3,))
    single, history, drawn_singly = steps_on(devices, (1, 1, 1))
    assert sorted(drawn) == sorted(drawn_singly)
    assert len(set(drawn)) == 3 * TASKS
    assert_close(state, single, rtol=1e-12)
    means = {name: np.mean([m[name] for m in history], axis=0) for name in metrics}
    assert_close(metrics, means)
    assert state.step == 3


@pytest.mark.parametrize(("devices", "chunk"), [(2, 2)])
def test_chunks_and_devices_can_be_combined(devices, chunk):
    ((state, _),) = run(make_step(tasks_per_chunk=chunk), devices=devices)
    assert_close(state, steps_on(1, (1,))[0])


@pytest.mark.parametrize("devices", [1, 4])
def test_repeated_dispatches_trace_once(devices):
    traces = []

    def counting_bowl(params, point, key):
        traces.append(1)
        return bowl(params, point, key)

    meta = MetaParams(jnp.zeros(2), step_sizes=0.1)  # weak types, as a user writes them
    step = make_step(loss_fn=counting_bowl)
    loop = make_train_loop(step, meta_batch_size=TASKS, devices=jax.devices()[:devices])
    state = init_state(meta, UNIT_STEP, jax.random.key(0))
    counts = []
    for _ in range(4):
        state, _ = loop(state, 2)
        counts.append(len(traces))
    assert counts == [counts[0]] * 4


def test_a_meta_batch_that_does_not_divide_over_the_devices_is_named():
    with pytest.raises(ValueError, match="meta_batch_size=6 does not divide over 4 devices"):
        make_train_loop(make_step(), meta_batch_size=6, devices=jax.devices()[:4])


EPISODES = 10


def wave_pair(key):
    """Support and query are two points of one task."""
    point, _ = sample_point(key)
    return point, point + 0.1


@cache
def estimate(devices, chunk, num_steps=2, seed=0):
    return evaluate(
        InnerLoop(bowl, sgd, num_steps=num_steps), bowl, wave_pair, fresh_meta_params(),
        jax.random.key(seed), num_episodes=EPISODES, chunk=chunk, devices=jax.devices()[:devices],
    )  # fmt: skip


def python_loop(num_steps, seed=0):
    """Query losses and distances [episodes, K+1], by loops over episodes and inner steps."""
    meta, losses, distances = fresh_meta_params(), [], []
    keys = task_keys(jax.random.key(seed), jnp.int32(EVALUATION), jnp.arange(EPISODES))
    gradient = jax.jit(jax.grad(lambda p, point: bowl(p, point, None)[0]))
    for key in keys:
        support, query = wave_pair(jax.random.split(key)[0])
        trajectory = [meta.init]
        for _ in range(num_steps):
            step = meta.step_sizes * gradient(trajectory[-1], support)
            trajectory.append(trajectory[-1] - step)
        results = [bowl(params, query, None) for params in trajectory]
        losses.append([float(loss) for loss, _ in results])
        distances.append([float(aux["distance"]) for _, aux in results])
    return {"loss": np.array(losses), "distance": np.array(distances)}


@pytest.mark.parametrize("num_steps", [0, 5])
def test_evaluation_is_mean_and_confidence_interval_after_every_step(num_steps):
    """The number of steps may differ from training."""
    estimates, dropped = estimate(1, 100, num_steps)
    assert dropped.diverged == 0
    assert set(estimates) == {"loss", "distance"}
    for name, values in python_loop(num_steps).items():
        assert estimates[name].mean.shape == estimates[name].ci95.shape == (num_steps + 1,)
        np.testing.assert_allclose(estimates[name].mean, values.mean(axis=0), rtol=1e-9)
        ci95 = 1.96 * values.std(axis=0, ddof=1) / np.sqrt(EPISODES)
        np.testing.assert_allclose(estimates[name].ci95, ci95, rtol=1e-9)


@pytest.mark.parametrize(("devices", "chunk"), [(1, 3), (4, 2)])
def test_evaluation_does_not_depend_on_devices_or_chunks(devices, chunk):
    """Ten episodes can be split evenly neither over four devices nor in chunks of three."""
    assert_close(estimate(devices, chunk), estimate(1, 100), rtol=1e-12)


def test_the_same_key_draws_the_same_episodes():
    again = evaluate(
        InnerLoop(bowl, sgd, num_steps=2), bowl, wave_pair, fresh_meta_params(),
        jax.random.key(0), num_episodes=EPISODES, devices=jax.devices()[:1],
    )  # fmt: skip
    assert_bits_equal(again[0], estimate(1, 100)[0])
    other = estimate(1, 100, seed=1)
    assert np.all(other[0]["loss"].mean != again[0]["loss"].mean)


def test_diverged_episodes_are_counted_and_left_out():
    keys = task_keys(jax.random.key(0), jnp.int32(EVALUATION), jnp.arange(EPISODES))
    bad = jax.random.key_data(jax.vmap(jax.random.split)(keys)[3, 0])

    def sample(key):
        support, query = wave_pair(key)
        is_bad = jnp.all(jax.random.key_data(key) == bad)
        return support, jnp.where(is_bad, jnp.nan, query)

    estimates, dropped = evaluate(
        InnerLoop(bowl, sgd, num_steps=2), bowl, sample, fresh_meta_params(),
        jax.random.key(0), num_episodes=EPISODES, devices=jax.devices()[:2],
    )  # fmt: skip
    assert dropped.not_finite == 1
    kept = np.delete(python_loop(2)["loss"], 3, axis=0)
    np.testing.assert_allclose(estimates["loss"].mean, kept.mean(axis=0), rtol=1e-9)


def test_one_key_trains_and_evaluates_on_different_tasks():
    def with_position(params, point, key):
        return bowl(params, point, key)[0], {"position": point}

    seed, devices = 0, jax.devices()[:1]
    ((_, metrics),) = run(make_step(loss_fn=with_position), devices=1, seed=seed)
    estimates, _ = evaluate(
        InnerLoop(with_position, num_steps=0), with_position, sample_point, fresh_meta_params(),
        jax.random.key(seed), num_episodes=TASKS, devices=devices,
    )  # fmt: skip
    assert np.all(metrics["position"] != estimates["position"].mean[0])
