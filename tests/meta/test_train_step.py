"""The meta-step: its mean over tasks, and its treatment of tasks that are not finite."""

import dataclasses
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maml_jax import (
    InnerLoop,
    MetaParams,
    Objective,
    evaluate,
    init_state,
    multi_step_weights,
    optax_outer,
    outer_chain,
)
from maml_jax.meta.outer import OuterResult, OuterStep
from maml_jax.meta.train_step import FINITE_SHARE
from tests.inner.problems import assert_bits_equal, assert_close, float64  # noqa: F401
from tests.marks import slow_but
from tests.meta.problems import (
    INNER_STEPS,
    TASKS,
    UNIT_STEP,
    bowl,
    episode_keys,
    fresh_meta_params,
    make_step,
    mean_gradient,
    run,
    sample_point,
    task_gradients,
)


def moved(state):
    """The meta-gradient, which is the update of a unit step."""
    return jax.tree.map(jnp.subtract, fresh_meta_params(), state.meta_params)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("chunk", slow_but([None, 3], [None, 1, 2, 3, 4]))
def test_a_meta_step_equals_the_mean_of_a_loop_over_tasks(chunk):
    ((state, metrics),) = run(make_step(tasks_per_chunk=chunk))
    assert_close(moved(state), mean_gradient(range(TASKS)))
    assert metrics["nonfinite_tasks"] == metrics["skipped_updates"] == 0
    assert metrics["loss"] == metrics["query_loss"]
    assert set(metrics) >= {"support_loss", "distance"}
    assert state.step == 1


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("learned", [("init", "step_sizes"), ("init",), ("step_sizes",)])
def test_tasks_are_clipped_one_by_one_by_the_norm_of_learned_fields(learned):
    most = 0.9
    gradients = [
        fresh_meta_params()
        ._replace(init=jnp.zeros(2), step_sizes=jnp.zeros(()))
        ._replace(**{field: getattr(gradient, field) for field in learned})
        for gradient in task_gradients(0)
    ]
    norms = np.array([optax.tree.norm(grads) for grads in gradients])
    assert 0 < np.sum(norms > most) < TASKS
    factors = np.minimum(1, most / norms)
    clipped = [optax.tree.scale(f, g) for f, g in zip(factors, gradients, strict=True)]
    expected = jax.tree.map(lambda *g: sum(g) / TASKS, *clipped)
    ((state, metrics),) = run(make_step(task_clip_norm=most, learned=learned))
    assert_close(moved(state), expected)
    assert metrics["nonfinite_tasks"] == 0


def make_faulty_step(kind, bad_keys, **options):
    """A step in which the tasks of these keys have a non-finite loss or gradient."""

    def sample(key):
        bad = jnp.any(jnp.all(jax.random.key_data(key) == bad_keys, axis=-1))
        return tuple((point, bad) for point in sample_point(key))

    def good_loss(params, data, key):
        return bowl(params, data[0], key)

    def faulty_loss(params, data, key):
        point, bad = data
        loss, aux = bowl(params, point, key)
        if kind == "inf_gradient":
            safe = jnp.where(bad, params - jax.lax.stop_gradient(params), 1.0)
            return loss + jnp.where(bad, jnp.sqrt(jnp.sum(safe)), 0.0), aux
        return loss * jnp.where(bad, jnp.nan if "nan" in kind else jnp.inf, 1.0), aux

    in_support = kind == "nan_support"
    return make_step(
        loss_fn=faulty_loss if in_support else good_loss,
        query_loss_fn=good_loss if in_support else faulty_loss,
        sample=sample,
        **options,
    )


KINDS = ["nan_query", "inf_query", "inf_gradient", "nan_support"]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("kind", "devices", "chunk", "clip"),
    [(kind, None, None, None) for kind in KINDS]
    + [("inf_gradient", None, 2, 1e6), ("inf_gradient", 4, None, None)],
)
def test_a_task_that_is_not_finite_is_left_out(kind, devices, chunk, clip):
    bad = 3
    bad_keys = jax.random.key_data(episode_keys())[bad : bad + 1]
    ((state, metrics),) = run(
        make_faulty_step(kind, bad_keys, tasks_per_chunk=chunk, task_clip_norm=clip),
        devices=devices,
    )
    others = [i for i in range(TASKS) if i != bad]
    assert_close(moved(state), mean_gradient(others))
    assert metrics["nonfinite_tasks"] == 1
    assert metrics["skipped_updates"] == 0 == state.skipped
    assert np.isfinite(metrics["loss"])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("kind", "devices"), [(KINDS[2], 1), (KINDS[2], 4), (KINDS[3], None)])
def test_a_meta_step_without_finite_tasks_changes_nothing(kind, devices):
    """Neither the meta-parameters nor Adam's state change, and the next step is unaffected."""
    learned = {"init": optax.adam(0.1), "step_sizes": optax.adam(0.1)}
    outer = optax_outer(outer_chain(learned))
    step = make_faulty_step(kind, jax.random.key_data(episode_keys()), outer=outer)
    (first, dropped), (state, metrics) = run(step, devices=devices, outer=outer, dispatches=(1, 1))
    assert_bits_equal(first.meta_params, jax.device_get(fresh_meta_params()))
    assert dropped["nonfinite_tasks"] == TASKS
    assert dropped["skipped_updates"] == first.skipped == first.step == 1
    assert metrics["nonfinite_tasks"] == metrics["skipped_updates"] == 0
    assert state.skipped == 1
    optimizer, meta = outer_chain(learned), fresh_meta_params()
    grads = mean_gradient(range(TASKS), step=1)
    updates, _ = optimizer.update(grads, optimizer.init(meta), meta)
    assert_close(state.meta_params, optax.apply_updates(meta, updates))


def test_a_dispatch_sums_counts_and_averages_metrics_without_nan():
    step = make_faulty_step("nan_query", jax.random.key_data(episode_keys()))
    ((state, metrics),) = run(step, devices=1, dispatches=(3,))
    assert metrics["nonfinite_tasks"] == TASKS
    assert metrics["skipped_updates"] == state.skipped == 1
    assert np.isfinite(metrics["loss"])


@pytest.mark.parametrize("devices", [4])
def test_an_update_that_overflows_is_left_out(devices):
    """The gradients are finite, but the new parameters are not."""
    overflow = optax.chain(optax.scale(1e30), optax.trace(0.9), optax.scale(1e30))
    outer = optax_outer(outer_chain({"init": overflow}))
    ((state, metrics),) = run(make_step(outer=outer), devices=devices, outer=outer, dispatches=(2,))
    assert_bits_equal(state.meta_params, jax.device_get(fresh_meta_params()))
    trace = optax.tree.get(state.outer_state, "trace")
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(trace))
    assert metrics["nonfinite_tasks"] == 0
    assert metrics["skipped_updates"] == state.skipped == 2


def test_init_state_owns_arrays_without_weak_types():
    meta = fresh_meta_params()._replace(step_sizes=0.1)
    outer = optax_outer(optax.sgd(0.1))
    state = init_state(meta, outer, jax.random.key(0), extras={"dual": 1.0})
    chex.assert_shape([state.step, state.skipped, state.extras["dual"]], ())
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state._replace(key=())))
    assert state.meta_params.init is not meta.init


def test_extras_carry_over_to_the_next_step():
    def count(objective, meta, state, key):
        _, (metrics, extras) = objective.value(meta)
        extras = {"n": extras["n"] + 1}
        return OuterResult(meta, state, (metrics, extras), jnp.array(True))

    outer = OuterStep(lambda meta: (), count)
    step = jax.jit(make_step(outer=outer))
    state = init_state(fresh_meta_params(), outer, jax.random.key(0), {"n": jnp.zeros(())})
    for _ in range(3):
        state, _ = step(state, jnp.arange(TASKS))
    assert state.extras["n"] == 3


def with_psnr(params, point, key):
    """A metric that is infinite for every other task, and one that never is finite."""
    loss, _ = bowl(params, point, key)
    psnr = jnp.where(point[0] > 0, jnp.inf, point[0])
    return loss, {"psnr": psnr, "pair": jnp.stack([psnr, loss]), "never": jnp.nan}


@pytest.mark.usefixtures("float64")
def test_a_metric_that_is_not_finite_decides_nothing():
    ((state, metrics),) = run(make_step(loss_fn=with_psnr, tasks_per_chunk=2), devices=2)
    assert_close(moved(state), mean_gradient(range(TASKS)))
    first = np.array([sample_point(key)[0][0] for key in episode_keys()])
    finite = first <= 0
    assert 0 < finite.sum() < TASKS
    assert metrics["nonfinite_tasks"] == metrics["skipped_updates"] == 0
    np.testing.assert_allclose(metrics["psnr"], first[finite].mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["pair"], [metrics["psnr"], metrics["loss"]], rtol=1e-6)
    assert np.isnan(metrics["never"])
    shares = {
        name: metrics[FINITE_SHARE + name] for name in ("psnr", "pair", "never", "query_loss")
    }
    assert shares == {
        "psnr": finite.mean(),
        "pair": (finite.mean() + 1) / 2,
        "never": 0,
        "query_loss": 1,
    }


AUX = {
    "number": 3,
    "flag": True,
    "numpy": np.float64(0.5),
    "count": jnp.int32(2),
    "nested": {"of": {"layers": [jnp.ones(()), jnp.zeros(2)]}, "none": None},
    "narrow": jnp.bfloat16(1.5),
}
REPORTED = {
    "number": 3,
    "flag": 1,
    "numpy": 0.5,
    "count": 2,
    "nested/of/layers/0": 1,
    "nested/of/layers/1": np.zeros(2),
    "narrow": 1.5,
}


def with_all_kinds(params, point, key):
    return bowl(params, point, key)[0], AUX


@pytest.mark.parametrize("step_weights", [None, multi_step_weights(INNER_STEPS, 10)])
def test_all_kinds_of_aux_are_metrics(step_weights):
    step = make_step(loss_fn=with_all_kinds)
    objective = dataclasses.replace(step.objective, step_weights=step_weights)
    ((_, metrics),) = run(dataclasses.replace(step, objective=objective), devices=1)
    for name, value in REPORTED.items():
        np.testing.assert_array_equal(metrics[name], value)
        assert metrics[name].dtype in (jnp.float32, jnp.float64)


def test_all_kinds_of_aux_are_measured():
    estimates, _ = evaluate(
        InnerLoop(with_all_kinds, num_steps=1), with_all_kinds, sample_point,
        fresh_meta_params(), jax.random.key(0), num_episodes=3, devices=jax.devices()[:1],
    )  # fmt: skip
    assert set(estimates) == {"loss", *REPORTED}
    for name, value in REPORTED.items():
        np.testing.assert_array_equal(estimates[name].mean, np.stack([value, value]))


@pytest.mark.parametrize(
    ("dtype", "chunk"), [(jnp.bfloat16, 1), (jnp.float16, 1), (jnp.float16, None)]
)
def test_narrow_gradients_are_summed_in_float32(dtype, chunk):
    """The gradient of every task is 32: one by one, 2,048 of them would be 8,192 in bfloat16."""

    def loss_fn(params, point, key):
        del key
        return jnp.sum((params - point).astype(jnp.float32) ** 2) / 2, {"narrow": params[0]}

    meta = MetaParams(jnp.full(2, 512, dtype), step_sizes=0.5)
    step = make_step(
        loss_fn=loss_fn,
        sample=lambda key: (jnp.zeros(2) * jax.random.normal(key),) * 2,
        tasks_per_chunk=chunk,
        learned=("init",),
    )
    state = init_state(meta, UNIT_STEP, jax.random.key(0))
    state, metrics = jax.jit(step)(state, jnp.arange(2048))
    # Each of two inner steps halves the parameters, and so does its derivative.
    np.testing.assert_array_equal(state.meta_params.init, jnp.full(2, 512 - 32, dtype))
    assert state.meta_params.init.dtype == dtype
    assert metrics["narrow"] == 128


class Counting(NamedTuple):
    """Parameters with leaves that have no derivative."""

    point: jax.Array
    count: jax.Array
    mask: jax.Array
    key: jax.Array


def test_counters_masks_and_keys_stay_as_they_are():
    def loss_fn(params, point, key):
        noise = jax.random.normal(params.key, (2,)) * params.mask
        return bowl(params.point + noise, point, key)

    given = Counting(jnp.ones(2), jnp.int32(3), jnp.array([True, False]), jax.random.key(7))
    outer = optax_outer(outer_chain({"init": optax.adam(0.1)}))
    step = make_step(loss_fn=loss_fn, outer=outer)
    inner_loop = InnerLoop(loss_fn, num_steps=1, adapts=lambda path: path == "point")
    step = dataclasses.replace(step, objective=Objective(inner_loop, loss_fn))
    meta = MetaParams(given, step_sizes=0.1)
    ((state, metrics),) = run(step, devices=2, outer=outer, meta=meta, dispatches=(3,))
    assert metrics["skipped_updates"] == metrics["nonfinite_tasks"] == 0
    learned = state.meta_params.init
    assert np.all(learned.point != 1)
    chex.assert_trees_all_equal(learned._replace(point=given.point), given)
