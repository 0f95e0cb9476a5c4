"""Step sizes as a scalar, per tensor, or as a prefix of the parameters."""

import chex
import jax
import jax.numpy as jnp
import pytest

from maml_jax.inner.learning_rates import broadcast
from tests.inner.problems import assert_close, net_params

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
