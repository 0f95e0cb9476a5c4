"""The package as a library: a user's own loss and parameters, no config and no binary."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import maml_jax
from maml_jax import (
    MetaParams,
    adapt,
    init_state,
    make_objective,
    make_train_loop,
    make_train_step,
    optax_outer,
    outer_chain,
    sgd,
)


def test_public_names_exist_and_are_documented():
    assert 15 <= len(maml_jax.__all__) <= 30
    assert sorted(maml_jax.__all__) == maml_jax.__all__
    for name in maml_jax.__all__:
        assert getattr(maml_jax, name).__doc__, name


class Line:
    """A parameter container of the user's own, registered as a pytree."""

    def __init__(self, slope, offset):
        self.slope, self.offset = slope, offset


jax.tree_util.register_pytree_with_keys(
    Line,
    lambda line: ((("slope", line.slope), ("offset", line.offset)), None),
    lambda _, leaves: Line(*leaves),
)
CONTAINERS = {
    "array": lambda a, b: jnp.stack([a, b]),
    "class": Line,
}


def line_loss(params, data, key):
    del key
    slope, offset = params if isinstance(params, jax.Array) else jax.tree.leaves(params)
    inputs, targets = data
    return jnp.mean((slope * inputs + offset - targets) ** 2), {}


def sample_line(key):
    """y = a x + b with a near 2 and b near −1; support and query share their points."""
    keys = jax.random.split(key, 2)
    slope, offset = jnp.array([2.0, -1.0]) + 0.1 * jax.random.normal(keys[0], (2,))
    inputs = jax.random.uniform(keys[1], (8,), minval=-1.0, maxval=1.0)
    return ((inputs, slope * inputs + offset),) * 2


@pytest.mark.parametrize("container", CONTAINERS)
def test_meta_training_any_pytree_with_the_users_own_loss(container):
    meta = MetaParams(CONTAINERS[container](jnp.zeros(()), jnp.zeros(())), learning_rates=0.1)
    adapt_fn = partial(adapt, line_loss, sgd, num_steps=1)
    outer = optax_outer(outer_chain({"init": optax.adam(0.1), "learning_rates": optax.adam(0.01)}))
    step = make_train_step(sample_line, make_objective(adapt_fn, line_loss), outer)
    loop = make_train_loop(step, meta_batch_size=4, devices=jax.devices()[:1])
    state, metrics = loop(init_state(meta, outer, jax.random.key(0)), 100)
    chex.assert_trees_all_equal_structs(state.meta_params, meta)
    learned = jnp.stack(jax.tree.leaves(state.meta_params.init)).ravel()
    np.testing.assert_allclose(learned, [2.0, -1.0], atol=0.2)
    assert int(metrics["skipped_updates"]) == 0


def test_the_given_meta_parameters_and_key_survive_a_donating_loop():
    meta, key = MetaParams(jnp.zeros(2), learning_rates=jnp.asarray(0.1)), jax.random.key(0)
    outer = optax_outer(outer_chain({"init": optax.sgd(0.1)}))
    step = make_train_step(
        sample_line, make_objective(partial(adapt, line_loss, sgd, num_steps=1), line_loss), outer
    )
    loop = make_train_loop(step, meta_batch_size=4, devices=jax.devices()[:2])
    first, _ = loop(init_state(meta, outer, key), 2)
    second, _ = loop(init_state(meta, outer, key), 2)
    chex.assert_trees_all_equal(first.meta_params, second.meta_params)
    np.testing.assert_array_equal(meta.init, np.zeros(2))
