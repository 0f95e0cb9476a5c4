"""The inner loop against MAML as a Python loop, and its edge cases."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maml_jax import MetaParams
from maml_jax.inner.optimizers.registry import heavy_ball, sgd
from tests.inner.problems import (
    CROSS,
    GRID,
    OPTIMIZERS,
    adapt,
    assert_bits_equal,
    assert_close,
    assert_moves,
    float64,  # noqa: F401, a fixture
    meta_params,
    net_params,
    noisy_loss,
    regression_data,
    regression_loss,
    textbook_adapt,
    toy_gates,
)

STEPS = 3
grid = pytest.mark.parametrize(("name", "meta_gradient"), GRID)
cross = pytest.mark.parametrize(("name", "meta_gradient"), CROSS)


@cache
def textbook(name, first_order):
    """(query loss, final parameters, support losses) and the meta-gradient."""
    support, query, key = regression_data(0), regression_data(1), jax.random.key(5)

    def query_loss(meta):
        trajectory = textbook_adapt(
            name, noisy_loss, meta, support, key, STEPS, constant_gradient=first_order, gates=True
        )
        losses = [
            noisy_loss(p, support, jax.random.fold_in(key, k))[0]
            for k, p in enumerate(trajectory[:-1])
        ]
        loss = regression_loss(trajectory[-1], query, None)[0]
        return loss, (trajectory[-1], jnp.stack(losses))

    return jax.value_and_grad(query_loss, has_aux=True)(meta_params(name, per_tensor=True))


@pytest.mark.usefixtures("float64")
@grid
def test_the_inner_loop_equals_textbook_maml(name, meta_gradient):
    support, query, key = regression_data(0), regression_data(1), jax.random.key(5)

    def query_loss(meta):
        adaptation = adapt(
            noisy_loss, OPTIMIZERS[name], meta, support, key,
            num_steps=STEPS, gates=toy_gates, meta_gradient=meta_gradient,
        )  # fmt: skip
        loss = regression_loss(adaptation.params, query, None)[0]
        return loss, (adaptation.params, adaptation.losses)

    meta = meta_params(name, per_tensor=True)
    values, grads = jax.jit(jax.value_and_grad(query_loss, has_aux=True))(meta)
    expected_values, expected_grads = textbook(name, meta_gradient == "first_order")
    assert_close(values, expected_values)
    assert_close(grads, expected_grads)
    assert_moves((grads.init, grads.lengths, grads.step_sizes))


@pytest.mark.usefixtures("float64")
@cross
def test_all_halted_equals_zero_shot_bit_for_bit(name, meta_gradient):
    meta, support, query = meta_params(name), regression_data(0), regression_data(1)

    def query_loss(meta):
        adaptation = adapt(
            noisy_loss, OPTIMIZERS[name], meta, support, jax.random.key(0), num_steps=STEPS,
            gates=lambda _, params, k: jax.tree.map(jnp.zeros_like, params),
            meta_gradient=meta_gradient, monitor=lambda params, k: (params, k),
        )  # fmt: skip
        return regression_loss(adaptation.params, query, None)[0], adaptation

    grads, adaptation = jax.jit(jax.grad(query_loss, has_aux=True))(meta)
    assert_bits_equal(adaptation.params, meta.init)
    for k in range(STEPS + 1):
        assert_bits_equal(
            jax.tree.map(lambda leaf, k=k: leaf[k], adaptation.monitored[0]), meta.init
        )
    np.testing.assert_array_equal(adaptation.monitored[1], np.arange(STEPS + 1))
    np.testing.assert_array_equal(adaptation.gates_on, np.zeros(STEPS))
    assert_close(grads.init, jax.grad(lambda p: regression_loss(p, query, None)[0])(meta.init))


@pytest.mark.usefixtures("float64")
@cross
def test_no_inner_step_equals_zero_shot(name, meta_gradient):
    support, query = regression_data(0), regression_data(1)

    def query_loss(meta):
        adaptation = adapt(
            regression_loss, OPTIMIZERS[name], meta, support, jax.random.key(0), num_steps=0,
            meta_gradient=meta_gradient, monitor=lambda p, k: regression_loss(p, query, None)[0],
        )  # fmt: skip
        chex.assert_shape(adaptation.monitored, (1,))
        chex.assert_shape((adaptation.losses, adaptation.gates_on, adaptation.aux["mae"]), (0,))
        return regression_loss(adaptation.params, query, None)[0], adaptation.monitored[0]

    meta = meta_params(name)._replace(lengths=())
    (loss, monitored), grads = jax.jit(jax.value_and_grad(query_loss, has_aux=True))(meta)
    plain = jax.value_and_grad(lambda p: regression_loss(p, query, None)[0])(meta.init)
    assert_close((loss, grads.init), plain)
    assert_close(monitored, loss)
    assert_close(grads._replace(init=()), jax.tree.map(jnp.zeros_like, meta._replace(init=())))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "meta_gradient", "per_tensor"),
    [(*case, True) for case in CROSS] + [("heavy_ball", "exact", False)],
)
def test_frozen_parameters_stay_and_still_get_meta_gradients(name, meta_gradient, per_tensor):
    support, query = regression_data(0), regression_data(1)

    def query_loss(meta):
        adaptation = adapt(
            regression_loss, OPTIMIZERS[name], meta, support, jax.random.key(0), num_steps=STEPS,
            meta_gradient=meta_gradient, adapts=lambda path: path.startswith("head/"),
        )  # fmt: skip
        return regression_loss(adaptation.params, query, None)[0], adaptation

    meta = meta_params(name, per_tensor=per_tensor)._replace(lengths=())
    grads, adaptation = jax.jit(jax.grad(query_loss, has_aux=True))(meta)
    assert_bits_equal(adaptation.params["body"], meta.init["body"])
    assert_moves(jax.tree.map(jnp.subtract, adaptation.params["head"], meta.init["head"]))
    assert_moves(grads.init)
    share = 3 / 6  # the head has 3 of 6 parameters
    np.testing.assert_allclose(adaptation.gates_on, np.full(STEPS, share), rtol=1e-6)

    def textbook_loss(meta):
        head_only = MetaParams(
            meta.init["head"],
            step_sizes=meta.step_sizes["head"] if per_tensor else meta.step_sizes,
            optimizer=meta.optimizer,
        )
        final = textbook_adapt(
            name, lambda head, *rest: regression_loss({**meta.init, "head": head}, *rest),
            head_only, support, jax.random.key(0), STEPS,
            constant_gradient=meta_gradient == "first_order",
        )[-1]  # fmt: skip
        return regression_loss({**meta.init, "head": final}, query, None)[0]

    assert_close(grads, jax.grad(textbook_loss)(meta))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_steps": -1}, "num_steps=-1 is negative"),
        ({"num_steps": 1, "meta_gradient": "exakt"}, "'exakt' is unknown; choose from exact"),
        (
            {"num_steps": 1, "meta_params": meta_params("sgd")},
            "but the inner loop has no gates",
        ),
        ({"num_steps": 1, "optimizer": optax.sgd(0.1)}, r"give a function .* as_direction"),
        ({"num_steps": 1, "optimizer": heavy_ball}, r"use MetaParams\(\.\.\., optimizer="),
    ],
)
def test_wrong_arguments_are_named(wrong, message):
    arguments = {"optimizer": sgd, "meta_params": MetaParams(net_params(), step_sizes=1.0), **wrong}
    with pytest.raises(ValueError, match=message):
        adapt(regression_loss, support=None, key=jax.random.key(0), **arguments)
