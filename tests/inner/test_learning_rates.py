"""The table of learned step sizes; step sizes as a prefix of the parameters."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maml_jax.inner.adapt import split_params
from maml_jax.inner.groups import with_paths
from maml_jax.inner.learning_rates import RATES, broadcast
from tests.inner.problems import assert_bits_equal, assert_close, net_params

ALPHA, STEPS = 0.03, 4
PARAMS = {**net_params(), "norm": {"shift": jnp.zeros(3)}}
MOVING = split_params(PARAMS, lambda path: not path.startswith("norm"))[0]
LOG_SPACE = ("scalar", "tensor")
SHAPES = {  # of what is learned
    "fixed": (),
    "scalar": {"all": ()},
    "tensor": {"body/kernel": (), "head/kernel": ()},
    "parameter": {"body/kernel": (1, 3), "head/kernel": (3, 1)},
    "tensor_step": {"body/kernel": (STEPS,), "head/kernel": (STEPS,)},
    "sparse_relu": {"body/kernel": (1, 3), "head/kernel": (3, 1)},
}


@cache
def initial(kind):
    return RATES[kind].init(MOVING, ALPHA, STEPS)


def rates_at(kind, learned, k):
    """Rates at step k, of the shapes of the parameters that adapt."""
    rates = jax.jit(RATES[kind].rates)(learned, MOVING, jnp.asarray(k))
    chex.assert_trees_all_equal_structs(rates, MOVING)
    return jax.tree.map(lambda rate, p: jnp.broadcast_to(rate, p.shape), rates, MOVING)


@pytest.mark.parametrize("kind", RATES)
def test_learned_values_have_the_shapes_of_their_groups(kind):
    assert jax.tree.map(jnp.shape, initial(kind)) == SHAPES[kind]
    chex.assert_tree_all_finite(initial(kind))


@pytest.mark.parametrize("kind", RATES)
def test_rates_start_at_alpha_at_every_step(kind):
    """Also beyond the last: more steps may be taken at test."""
    expected = jax.tree.map(lambda p: jnp.full(p.shape, ALPHA), MOVING)
    for k in range(STEPS + 3):
        assert_close(rates_at(kind, initial(kind), k), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", RATES)
def test_no_inner_step_in_training_still_has_rates_at_test(kind):
    expected = jax.tree.map(lambda p: jnp.full(p.shape, ALPHA), MOVING)
    assert_close(rates_at(kind, RATES[kind].init(MOVING, ALPHA, 0), 2), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", RATES)
def test_every_learned_value_has_a_say(kind):
    """The derivative of the sum of all rates over the steps with respect to what is learned."""

    def total(learned):
        at = [jax.tree.leaves(rates_at(kind, learned, k)) for k in range(STEPS)]
        return sum(jnp.sum(rate) for rates in at for rate in rates)

    learned = jax.tree.map(lambda value: value * 1.0, initial(kind))
    for leaf in jax.tree.leaves(jax.grad(total)(learned)):
        assert np.all(np.asarray(leaf) > 0)


@pytest.mark.parametrize("kind", LOG_SPACE)
@pytest.mark.parametrize("value", [-20.0, 0.0, 20.0])
def test_rates_in_log_space_are_positive_whatever_their_value(kind, value):
    learned = jax.tree.map(lambda leaf: jnp.full_like(leaf, value), initial(kind))
    for rate in jax.tree.leaves(rates_at(kind, learned, 0)):
        assert np.all(np.asarray(rate) > 0)
        np.testing.assert_allclose(rate, np.exp(value), rtol=1e-5)


@pytest.mark.parametrize("kind", ["parameter", "tensor_step"])
def test_published_rates_may_turn_their_sign(kind):
    learned = jax.tree.map(lambda leaf: jnp.full_like(leaf, -0.5), initial(kind))
    for rate in jax.tree.leaves(rates_at(kind, learned, 1)):
        np.testing.assert_array_equal(rate, np.full(rate.shape, np.float32(-0.5)))


@pytest.mark.parametrize("k", range(STEPS + 2))
def test_tensor_step_uses_its_row_and_beyond_them_the_last(k):
    learned = {
        "body/kernel": jnp.arange(1.0, 1.0 + STEPS),
        "head/kernel": -jnp.arange(1.0, 1.0 + STEPS),
    }
    rates = with_paths(rates_at("tensor_step", learned, k))
    row = float(min(k, STEPS - 1) + 1)
    assert_bits_equal(rates["body/kernel"], jnp.full((1, 3), row))
    assert_bits_equal(rates["head/kernel"], jnp.full((3, 1), -row))


def test_sparse_relu_cuts_off_at_0_with_the_identity_as_its_derivative():
    """A rate that was cut off can come back."""
    learned = {
        "body/kernel": jnp.array([[-0.5, 0.0, 0.5]]),
        "head/kernel": jnp.array([[-1e-9], [1e-9], [2.0]]),
    }
    rates = with_paths(rates_at("sparse_relu", learned, 0))
    for path, value in learned.items():
        assert_bits_equal(rates[path], jnp.maximum(value, 0))
    weights = {"body/kernel": jnp.array([[1.0, 2.0, 3.0]]), "head/kernel": jnp.ones((3, 1))}

    def weighted(learned):
        rates = with_paths(rates_at("sparse_relu", learned, 0))
        return sum(jnp.sum(weights[path] * rate) for path, rate in rates.items())

    assert_bits_equal(jax.grad(weighted)(learned), weights)


PREFIXES = {
    "scalar": 0.1,
    "array": jnp.asarray(0.1),
    "per_layer": {"body": 0.1, "head": 0.1},
    "per_tensor": {"body": {"kernel": 0.1}, "head": {"kernel": jnp.asarray(0.1)}},
    "per_parameter": {"body": {"kernel": jnp.full((1, 3), 0.1)}, "head": 0.1},
}


@pytest.mark.parametrize("kind", PREFIXES)
def test_rates_broadcast_to_their_subtree(kind):
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), net_params())
    rates = broadcast(PREFIXES[kind], params, jnp.asarray(0))
    chex.assert_trees_all_equal_structs(rates, params)
    expected = jax.tree.map(lambda p: jnp.full_like(p, 0.1), params)
    assert_close(jax.tree.map(lambda r, p: jnp.broadcast_to(r, p.shape), rates, params), expected)
    assert all(rate.dtype == jnp.bfloat16 for rate in jax.tree.leaves(rates))


def test_parameters_that_do_not_adapt_have_no_rate():
    params = {"body": {"kernel": None}, "head": net_params()["head"]}
    rates = broadcast(PREFIXES["per_tensor"], params, jnp.asarray(0))
    chex.assert_trees_all_equal_structs(rates, params)
