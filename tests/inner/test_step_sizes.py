"""Kinds of learned step sizes, and step sizes as a prefix of the parameters."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maml_jax.inner.step_sizes import STEP_SIZES, broadcast
from maml_jax.params import split_params, with_paths
from tests.inner.problems import assert_bits_equal, assert_close, net_params

ALPHA, STEPS = 0.03, 4
PARAMS = {**net_params(), "norm": {"shift": jnp.zeros(3)}}
ADAPTED = split_params(PARAMS, lambda path: not path.startswith("norm"))[0]
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
    return STEP_SIZES[kind].init(ADAPTED, ALPHA, STEPS)


def step_sizes_at(kind, learned, k):
    """Step sizes at step k, in the shapes of the adapted parameters."""
    alphas = jax.jit(STEP_SIZES[kind].at_step)(learned, ADAPTED, jnp.asarray(k))
    chex.assert_trees_all_equal_structs(alphas, ADAPTED)
    return jax.tree.map(lambda alpha, p: jnp.broadcast_to(alpha, p.shape), alphas, ADAPTED)


@pytest.mark.parametrize("kind", STEP_SIZES)
def test_learned_values_have_the_shapes_of_their_groups(kind):
    assert jax.tree.map(jnp.shape, initial(kind)) == SHAPES[kind]
    chex.assert_tree_all_finite(initial(kind))


@pytest.mark.parametrize("kind", STEP_SIZES)
def test_step_sizes_start_at_alpha_at_every_step(kind):
    """Also after the last step of training, because evaluation may take more steps."""
    expected = jax.tree.map(lambda p: jnp.full(p.shape, ALPHA), ADAPTED)
    for k in range(STEPS + 3):
        assert_close(step_sizes_at(kind, initial(kind), k), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", STEP_SIZES)
def test_training_without_inner_steps_has_step_sizes_at_test(kind):
    learned = STEP_SIZES[kind].init(ADAPTED, ALPHA, 0)
    expected = jax.tree.map(lambda p: jnp.full(p.shape, ALPHA), ADAPTED)
    assert_close(step_sizes_at(kind, learned, 2), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", STEP_SIZES)
def test_every_learned_value_has_a_derivative(kind):
    """The sum of all step sizes over the steps depends on every learned value."""

    def total(learned):
        at = [jax.tree.leaves(step_sizes_at(kind, learned, k)) for k in range(STEPS)]
        return sum(jnp.sum(alpha) for alphas in at for alpha in alphas)

    learned = jax.tree.map(lambda value: value * 1.0, initial(kind))
    for leaf in jax.tree.leaves(jax.grad(total)(learned)):
        assert np.all(np.asarray(leaf) > 0)


@pytest.mark.parametrize("kind", LOG_SPACE)
@pytest.mark.parametrize("value", [-20.0, 0.0, 20.0])
def test_step_sizes_in_log_space_are_always_positive(kind, value):
    learned = jax.tree.map(lambda leaf: jnp.full_like(leaf, value), initial(kind))
    for alpha in jax.tree.leaves(step_sizes_at(kind, learned, 0)):
        assert np.all(np.asarray(alpha) > 0)
        np.testing.assert_allclose(alpha, np.exp(value), rtol=1e-5)


@pytest.mark.parametrize("kind", ["parameter", "tensor_step"])
def test_published_step_sizes_may_be_negative(kind):
    learned = jax.tree.map(lambda leaf: jnp.full_like(leaf, -0.5), initial(kind))
    for alpha in jax.tree.leaves(step_sizes_at(kind, learned, 1)):
        np.testing.assert_array_equal(alpha, np.full(alpha.shape, np.float32(-0.5)))


@pytest.mark.parametrize("k", range(STEPS + 2))
def test_tensor_step_uses_one_value_per_step_and_then_the_last_one(k):
    learned = {
        "body/kernel": jnp.arange(1.0, 1.0 + STEPS),
        "head/kernel": -jnp.arange(1.0, 1.0 + STEPS),
    }
    alphas = with_paths(step_sizes_at("tensor_step", learned, k))
    value = float(min(k, STEPS - 1) + 1)
    assert_bits_equal(alphas["body/kernel"], jnp.full((1, 3), value))
    assert_bits_equal(alphas["head/kernel"], jnp.full((3, 1), -value))


def test_sparse_relu_is_relu_with_the_identity_as_its_derivative():
    """A step size of 0 can become positive again."""
    learned = {
        "body/kernel": jnp.array([[-0.5, 0.0, 0.5]]),
        "head/kernel": jnp.array([[-1e-9], [1e-9], [2.0]]),
    }
    alphas = with_paths(step_sizes_at("sparse_relu", learned, 0))
    for path, value in learned.items():
        assert_bits_equal(alphas[path], jnp.maximum(value, 0))
    weights = {"body/kernel": jnp.array([[1.0, 2.0, 3.0]]), "head/kernel": jnp.ones((3, 1))}

    def weighted(learned):
        alphas = with_paths(step_sizes_at("sparse_relu", learned, 0))
        return sum(jnp.sum(weights[path] * alpha) for path, alpha in alphas.items())

    assert_bits_equal(jax.grad(weighted)(learned), weights)


PREFIXES = {
    "scalar": 0.1,
    "array": jnp.asarray(0.1),
    "per_layer": {"body": 0.1, "head": 0.1},
    "per_tensor": {"body": {"kernel": 0.1}, "head": {"kernel": jnp.asarray(0.1)}},
    "per_parameter": {"body": {"kernel": jnp.full((1, 3), 0.1)}, "head": 0.1},
}


@pytest.mark.parametrize("kind", PREFIXES)
def test_step_sizes_broadcast_to_their_subtree(kind):
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), net_params())
    alphas = broadcast(PREFIXES[kind], params, jnp.asarray(0))
    chex.assert_trees_all_equal_structs(alphas, params)
    expected = jax.tree.map(lambda p: jnp.full_like(p, 0.1), params)
    assert_close(jax.tree.map(lambda a, p: jnp.broadcast_to(a, p.shape), alphas, params), expected)
    assert all(alpha.dtype == jnp.bfloat16 for alpha in jax.tree.leaves(alphas))


def test_frozen_parameters_have_no_step_size():
    params = {"body": {"kernel": None}, "head": net_params()["head"]}
    alphas = broadcast(PREFIXES["per_tensor"], params, jnp.asarray(0))
    chex.assert_trees_all_equal_structs(alphas, params)


NO_FIT = {
    "none": ((), "meta_params has no step sizes"),
    "vector": (jnp.array([0.1, 0.2, 0.3]), r"do not fit the parameters \(an array of shape \(3,\)"),
    "vector_of_a_layer": ({"body": jnp.full(3, 0.1), "head": 0.1}, r"\(an array of shape \(3,\)"),
    "too_large": ({"body": {"kernel": jnp.ones((2, 3))}, "head": 0.1}, "do not fit"),
    "missing": ({"body": 0.1}, "do not fit the parameters .* give a scalar, or a tree like"),
    **{
        kind: (
            STEP_SIZES[kind].init(net_params(), 0.1, 3),
            rf"learned values of STEP_SIZES\['{kind}'",
        )
        for kind in STEP_SIZES
        if kind != "fixed"
    },
}


@pytest.mark.parametrize("case", NO_FIT)
def test_plain_step_sizes_that_do_not_fit_are_refused(case):
    step_sizes, message = NO_FIT[case]
    with pytest.raises(ValueError, match=message):
        broadcast(step_sizes, net_params(), jnp.asarray(0))


def test_a_vector_fits_a_single_parameter_of_its_shape():
    alphas = broadcast(jnp.array([0.1, 0.2]), jnp.zeros(2), jnp.asarray(0))
    assert_close(alphas, jnp.array([0.1, 0.2]))


@pytest.mark.parametrize("kind", [kind for kind in STEP_SIZES if kind != "fixed"])
def test_a_kind_refuses_the_values_of_another_one(kind):
    others = {other: initial(other) for other in STEP_SIZES if other != kind}
    others |= {"plain": 0.1, "per_layer": {"body": 0.1, "head": 0.1}}
    for step_sizes in others.values():
        with pytest.raises(ValueError, match=rf"no learned values of STEP_SIZES\['{kind}'\]"):
            STEP_SIZES[kind].at_step(step_sizes, ADAPTED, jnp.asarray(0))


def test_learned_values_are_a_dict_to_everything_else():
    learned = jax.tree.map(lambda value: value + 1, initial("tensor"))
    plain = dict(learned)
    assert learned == plain
    assert learned.kind == "tensor"
    flat, expected = (jax.tree_util.tree_flatten_with_path(of)[0] for of in (learned, plain))
    assert flat == expected
