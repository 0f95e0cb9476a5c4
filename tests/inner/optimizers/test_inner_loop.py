"""Contracts of inner optimizers in the inner loop: dtypes, extra args, traces."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maml_jax import MetaParams
from maml_jax.inner.optimizers import as_direction
from maml_jax.types import Adaptation
from tests.inner.problems import (
    CROSS,
    OPTIMIZERS,
    adapt,
    assert_bits_equal,
    assert_close,
    meta_params,
    net_params,
    noisy_loss,
    regression_data,
    regression_loss,
    toy_gates,
)

STEPS = 2
MIXED = {"body": jnp.bfloat16, "head": jnp.float32}


@pytest.mark.parametrize(("name", "meta_gradient"), CROSS)
@pytest.mark.parametrize("dtypes", [{"body": jnp.bfloat16, "head": jnp.bfloat16}, MIXED])
def test_dtypes_are_preserved(dtypes, name, meta_gradient):
    """bfloat16 parameters beside float32 gates, step sizes and momentum."""
    meta = meta_params(name, per_tensor=True)
    layers = {k: jax.tree.map(lambda p, t=t: p.astype(t), meta.init[k]) for k, t in dtypes.items()}
    meta = meta._replace(init=layers)
    support = regression_data()

    def query_loss(meta):
        adaptation = adapt(
            noisy_loss, OPTIMIZERS[name], meta, support, jax.random.key(0),
            num_steps=STEPS, gates=toy_gates, meta_gradient=meta_gradient,
        )  # fmt: skip
        return regression_loss(adaptation.params, support, None)[0], adaptation

    grads, adaptation = jax.eval_shape(jax.grad(query_loss, has_aux=True), meta)
    chex.assert_trees_all_equal_shapes_and_dtypes(grads, meta)
    chex.assert_trees_all_equal_shapes_and_dtypes(adaptation.params, meta.init)
    chex.assert_trees_all_equal_shapes_and_dtypes(adaptation.carry[0], meta.init)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_shapes_of_an_adaptation_over_a_batch_of_tasks(name):
    tasks, meta = 3, meta_params(name)
    supports = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(regression_data, range(tasks)))
    run = partial(
        adapt, noisy_loss, OPTIMIZERS[name], num_steps=STEPS, gates=toy_gates,
        monitor=lambda params, k: {"norm": optax.global_norm(params), "k": k},
    )  # fmt: skip
    keys = jax.random.split(jax.random.key(0), tasks)
    adaptation = jax.eval_shape(jax.vmap(run, (None, 0, 0)), meta, supports, keys)
    assert isinstance(adaptation, Adaptation)
    chex.assert_shape((adaptation.losses, adaptation.gates_on), (tasks, STEPS))
    chex.assert_shape(adaptation.aux["mae"], (tasks, STEPS))
    chex.assert_shape(list(adaptation.monitored.values()), (tasks, STEPS + 1))
    stacked = jax.tree.map(lambda p: jnp.stack([p] * tasks), meta.init)
    chex.assert_trees_all_equal_shapes_and_dtypes(adaptation.params, stacked)


def record_extra_args():
    """A transform that keeps the extra args it was given, and gates its direction itself."""

    def init(params):
        return jax.tree.map(jnp.zeros_like, params), jnp.zeros(())

    def update(updates, state, params=None, *, gate, value, **extra_args):
        del state, params, extra_args
        seen = jax.tree.map(lambda g, u: jnp.broadcast_to(g, u.shape), gate, updates)
        return updates, (seen, value)

    return optax.GradientTransformationExtraArgs(init, update)


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: optax.chain(optax.identity(), t)])
def test_gate_and_value_reach_transforms_that_take_them(wrap):
    meta, support = meta_params("sgd"), regression_data()
    adaptation = adapt(
        noisy_loss, lambda _: wrap(record_extra_args()), meta, support, jax.random.key(0),
        num_steps=STEPS, gates=toy_gates,
    )  # fmt: skip
    state = adaptation.carry[1]
    gates, value = state if len(jax.tree.leaves(state[0])) else state[-1]
    expected = toy_gates(meta.lengths, meta.init, jnp.asarray(STEPS - 1))
    broadcast = jax.tree.map(lambda g, p: jnp.broadcast_to(g, p.shape), expected, meta.init)
    assert_close(gates, broadcast, rtol=1e-6)
    assert_bits_equal(value, adaptation.losses[-1])


def test_the_value_that_transforms_see_has_the_proximal_term():
    meta = meta_params("sgd")._replace(lengths=())
    run = (noisy_loss, lambda _: record_extra_args(), meta, regression_data(), jax.random.key(0))
    adaptation = adapt(*run, num_steps=STEPS, proximal=0.3, monitor=lambda params, k: params)
    before_last = jax.tree.map(lambda p: p[-2], adaptation.monitored)
    away = optax.tree.norm(optax.tree.sub(before_last, meta.init), squared=True)
    _, value = adaptation.carry[1]
    assert_close(value, adaptation.losses[-1] + 0.15 * away, rtol=1e-6)
    assert away > 1e-4


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_plain_transforms_ignore_extra_args(name):
    """They take no `gate` or `value`; wrapped so that any extra arg would be an error."""
    plain = optax.with_extra_args_support(OPTIMIZERS[name]({"momentum": 0.7}))
    strict = optax.GradientTransformation(
        plain.init, lambda updates, state, params=None: plain.update(updates, state, params)
    )

    def run(make_optimizer):
        return adapt(
            noisy_loss, make_optimizer, meta_params(name)._replace(lengths=()), regression_data(),
            jax.random.key(0), num_steps=STEPS,
        ).params  # fmt: skip

    assert_close(run(lambda _: strict), run(lambda _: plain), rtol=1e-6)


def test_as_direction_steps_as_optax_does():
    optimizer, support = optax.adamw(0.1), regression_data()
    params = net_params()
    adaptation = adapt(
        regression_loss, as_direction(optimizer), MetaParams(params, step_sizes=1.0), support,
        jax.random.key(0), num_steps=STEPS,
    )  # fmt: skip
    state = optimizer.init(params)
    for _ in range(STEPS):
        grads = jax.grad(lambda p: regression_loss(p, support, None)[0])(params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert_close(adaptation.params, params, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "meta_gradient"), CROSS)
def test_traces_of_the_loss_do_not_grow_with_the_steps(name, meta_gradient):
    traces = []

    def counting_loss(params, support, key):
        traces.append(1)
        return noisy_loss(params, support, key)

    def query_loss(meta, support, num_steps):
        adaptation = adapt(
            counting_loss, OPTIMIZERS[name], meta, support, jax.random.key(0),
            num_steps=num_steps, meta_gradient=meta_gradient,
        )  # fmt: skip
        return regression_loss(adaptation.params, support, None)[0]

    counts = []
    for num_steps in (1, 2, 20):
        gradient = jax.grad(partial(query_loss, num_steps=num_steps))
        jax.eval_shape(gradient, meta_params(name)._replace(lengths=()), regression_data())
        counts.append(len(traces))
    assert counts[2] - counts[1] == counts[1] - counts[0] == counts[0]


def test_support_losses_carry_no_gradient():
    def loss(meta):
        adaptation = adapt(
            regression_loss, OPTIMIZERS["sgd"], meta, regression_data(), jax.random.key(0),
            num_steps=STEPS,
        )  # fmt: skip
        return jnp.sum(adaptation.losses) + jnp.sum(adaptation.aux["mae"])

    grads = jax.jit(jax.grad(loss))(meta_params("sgd")._replace(lengths=()))
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(grads))
