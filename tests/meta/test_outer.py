"""The outer step: learned fields, clipping, and outer steps other than optax updates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maml_jax import MetaParams, optax_outer, outer_chain
from maml_jax.meta.outer import MetaObjective, OuterResult, OuterStep
from maml_jax.tasks import quadratic
from tests.inner.problems import assert_bits_equal, assert_close
from tests.inner.problems import float64 as float64
from tests.meta.problems import fresh_meta_params, make_step, run

FULL = {
    "init": {"w": np.array([1.0, -2.0, 1e-30], np.float32)},
    "lengths": (np.array([2.0, 3.0], np.float32),),
    "step_sizes": np.float32(0.1),
    "optimizer": {"momentum": np.float32(0.9)},
}


@pytest.mark.parametrize("learned", [(), ("init",), ("lengths", "optimizer"), tuple(FULL)])
def test_fields_that_are_not_learned_stay_bit_for_bit(learned):
    meta = jax.tree.map(jnp.asarray, MetaParams(**FULL))
    optimizer = outer_chain({field: optax.adam(0.5) for field in learned}, clip=1.0)
    state = optimizer.init(meta)
    new = meta
    for _ in range(3):
        grads = jax.tree.map(jnp.ones_like, meta)
        updates, state = optimizer.update(grads, state, new)
        new = optax.apply_updates(new, updates)
    for field in FULL:
        if field in learned:
            before, after = (jax.tree.leaves(getattr(m, field)) for m in (meta, new))
            assert all(np.all(a != b) for a, b in zip(before, after, strict=True))
        else:
            assert_bits_equal(getattr(new, field), getattr(meta, field))


def test_clip_acts_on_every_element():
    meta = MetaParams(jnp.zeros(4), step_sizes=jnp.zeros(()))
    optimizer = outer_chain({"init": optax.sgd(1.0), "step_sizes": optax.sgd(0.5)}, clip=10.0)
    grads = MetaParams(jnp.array([-30.0, 5.0, 10.5, jnp.inf]), step_sizes=jnp.asarray(11.0))
    updates, _ = optimizer.update(grads, optimizer.init(meta), meta)
    np.testing.assert_array_equal(updates.init, [10.0, -5.0, -10.0, -10.0])
    np.testing.assert_array_equal(updates.step_sizes, -5.0)


def test_clip_norm_scales_all_learned_fields_together():
    meta = MetaParams(jnp.zeros(2), step_sizes=jnp.zeros(()))
    fields = {"init": optax.sgd(1.0), "step_sizes": optax.sgd(1.0)}
    optimizer = outer_chain(fields, clip=12.0, clip_norm=1.3)
    grads = MetaParams(jnp.array([3.0, 4.0]), step_sizes=jnp.asarray(1e20))
    updates, _ = optimizer.update(grads, optimizer.init(meta), meta)
    np.testing.assert_allclose(updates.init, [-0.3, -0.4], rtol=1e-6)
    np.testing.assert_allclose(updates.step_sizes, -1.2, rtol=1e-6)


def test_clip_norm_leaves_out_fields_that_are_not_learned():
    meta = MetaParams(jnp.zeros(2), step_sizes=jnp.zeros(()))
    optimizer = outer_chain({"init": optax.sgd(1.0)}, clip_norm=1.0)
    grads = MetaParams(jnp.array([0.3, 0.4]), step_sizes=jnp.asarray(1e20))
    updates, _ = optimizer.update(grads, optimizer.init(meta), meta)
    np.testing.assert_allclose(updates.init, [-0.3, -0.4], rtol=1e-6)
    assert updates.step_sizes == 0


def test_an_unknown_field_is_named():
    with pytest.raises(ValueError, match=r"\['rates'\]; MetaParams has init, lengths"):
        outer_chain({"init": optax.sgd(1.0), "rates": optax.sgd(1.0)})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_optax_outer_reports_whether_it_applied_the_update(bad):
    outer = optax_outer(outer_chain({"init": optax.adam(0.1)}))
    meta = MetaParams(jnp.zeros(2), step_sizes=0.1)

    def objective(gradient):
        grads = MetaParams(jnp.array([gradient, 1.0]), step_sizes=0.0)
        value_and_grad = ((0.0, "aux"), grads)
        return MetaObjective(lambda m: (0.0, "aux"), lambda m: value_and_grad, lambda name: None)

    state, key = outer.init(meta), jax.random.key(0)
    for gradient, applied in [(1.0, True), (bad, False), (bad, False), (2.0, True)]:
        result = outer.step(objective(gradient), meta, state, key)
        assert result.aux == "aux"
        assert bool(result.applied) == applied
        if not applied:
            assert_bits_equal(result.meta_params, meta)
        meta, state = result.meta_params, result.outer_state


def test_several_updates_are_made_on_the_same_tasks():
    """Each gradient is taken where the last update has led; the metrics are those of the start."""

    def value_and_grad(meta):
        return (jnp.sum(meta.init**2), meta.init), MetaParams(2 * meta.init, step_sizes=0.0)

    outer = optax_outer(outer_chain({"init": optax.sgd(0.1)}), num_updates=3)
    start = MetaParams(jnp.array([1.0, -2.0]), step_sizes=0.1)
    objective = MetaObjective(lambda m: (0.0, ()), value_and_grad, lambda name: None)
    result = outer.step(objective, start, outer.init(start), jax.random.key(0))
    np.testing.assert_allclose(result.meta_params.init, 0.8**3 * start.init, rtol=1e-6)
    np.testing.assert_array_equal(result.aux, start.init)
    with pytest.raises(ValueError, match="num_updates=0 is not allowed; use 1 or more"):
        optax_outer(outer_chain({}), num_updates=0)


def backtracking_step(objective, meta, state, key):
    """Halves the step along −gradient until Armijo's condition holds on the same tasks."""
    del key
    (loss, aux), grads = objective.value_and_grad(meta)
    squared = sum(jnp.sum(g**2) for g in jax.tree.leaves(grads.init))

    def move(rate):
        return meta._replace(init=meta.init - rate * grads.init)

    def too_high(carry):
        rate, trials = carry
        return (objective.value(move(rate))[0] > loss - 0.1 * rate * squared) & (trials < 20)

    rate, trials = jax.lax.while_loop(too_high, lambda c: (c[0] / 2, c[1] + 1), (64.0, 0))
    return OuterResult(move(rate), state + trials, aux, jnp.array(True))


LINE_SEARCH = OuterStep(lambda meta: jnp.zeros((), jnp.int32), backtracking_step)


@pytest.mark.usefixtures("float64")
def test_a_line_search_can_be_an_outer_step_on_any_number_of_devices():
    curvature = jnp.array([0.5, 2.0])
    step = make_step(
        loss_fn=quadratic.loss,
        sample=lambda key: quadratic.sample_episode(key, curvature),
        outer=LINE_SEARCH,
    )
    start = fresh_meta_params()._replace(init=jnp.array([8.0, -6.0]))
    options = {"outer": LINE_SEARCH, "meta": start, "dispatches": (1,) * 6}
    results = {devices: run(step, devices=devices, **options) for devices in (1, 4)}
    (_, first), *_, (state, last) = results[1]
    assert state.outer_state > 0  # it backtracked
    assert state.skipped == 0
    assert last["loss"] < 0.1 * first["loss"]
    assert_close(results[4], results[1])


def test_objective_is_deterministic_within_a_step():
    """Every call of value and value_and_grad uses the same tasks."""

    def step(objective, meta, state, key):
        (loss, aux), _ = objective.value_and_grad(meta)
        losses = jnp.stack([loss, objective.value(meta)[0], objective.value(meta)[0]])
        return OuterResult(meta, losses, aux, jnp.array(True))

    outer = OuterStep(lambda meta: jnp.zeros(3), step)
    ((state, _),) = run(make_step(outer=outer), outer=outer)
    np.testing.assert_allclose(state.outer_state, np.full(3, state.outer_state[0]), rtol=1e-6)
