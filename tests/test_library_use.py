"""The package as a library: a user's own loss and parameters, no config and no command."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import maml_jax
from maml_jax import (
    InnerLoop,
    MetaParams,
    Objective,
    TrainStep,
    init_state,
    make_train_loop,
    optax_outer,
    outer_chain,
    sgd,
)


def test_public_names_exist_and_are_documented():
    public = {name: getattr(maml_jax, name) for name in maml_jax.__all__}
    submodules = {name for name, value in public.items() if inspect.ismodule(value)}
    assert sorted(public) == maml_jax.__all__
    assert {"inner", "lengths", "meta", "models", "parallel", "run", "tasks"} <= submodules
    assert 15 <= len(public.keys() - submodules) <= 20
    for name, value in public.items():
        assert value.__doc__, name


class Line:
    """A parameter container of the user's own, registered as a pytree."""

    def __init__(self, slope, offset):
        self.slope, self.offset = slope, offset


jax.tree_util.register_pytree_with_keys(
    Line,
    lambda line: ((("slope", line.slope), ("offset", line.offset)), None),
    lambda _, leaves: Line(*leaves),
)


def line_loss(params, data, key):
    del key
    inputs, targets = data
    return jnp.mean((params.slope * inputs + params.offset - targets) ** 2), {}


def sample_line(key):
    """y = a x + b with a near 2 and b near −1; support and query share their points."""
    keys = jax.random.split(key, 2)
    slope, offset = jnp.array([2.0, -1.0]) + 0.1 * jax.random.normal(keys[0], (2,))
    inputs = jax.random.uniform(keys[1], (8,), minval=-1.0, maxval=1.0)
    return ((inputs, slope * inputs + offset),) * 2


def test_meta_training_any_pytree_with_the_users_own_loss():
    meta = MetaParams(Line(jnp.zeros(()), jnp.zeros(())), step_sizes=0.1)
    inner_loop = InnerLoop(line_loss, sgd, num_steps=1)
    outer = optax_outer(outer_chain({"init": optax.adam(0.1), "step_sizes": optax.adam(0.01)}))
    step = TrainStep(sample_line, Objective(inner_loop, line_loss), outer)
    loop = make_train_loop(step, meta_batch_size=4, devices=jax.devices()[:1])
    state, metrics = loop(init_state(meta, outer, jax.random.key(0)), 100)
    chex.assert_trees_all_equal_structs(state.meta_params, meta)
    learned = jnp.stack(jax.tree.leaves(state.meta_params.init)).ravel()
    np.testing.assert_allclose(learned, [2.0, -1.0], atol=0.2)
    assert int(metrics["skipped_updates"]) == 0


def test_the_given_meta_parameters_and_key_survive_a_donating_loop():
    init, key = Line(jnp.zeros(()), jnp.zeros(())), jax.random.key(0)
    meta = MetaParams(init, step_sizes=jnp.asarray(0.1))
    outer = optax_outer(outer_chain({"init": optax.sgd(0.1)}))
    step = TrainStep(
        sample_line, Objective(InnerLoop(line_loss, sgd, num_steps=1), line_loss), outer
    )
    loop = make_train_loop(step, meta_batch_size=4, devices=jax.devices()[:2])
    first, _ = loop(init_state(meta, outer, key), 2)
    second, _ = loop(init_state(meta, outer, key), 2)
    chex.assert_trees_all_equal(first.meta_params, second.meta_params)
    np.testing.assert_array_equal(jax.tree.leaves(meta.init), np.zeros(2))
