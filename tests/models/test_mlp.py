"""The multi-layer perceptron."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maml_jax.models.mlp import INITIALIZERS, MLP


def test_parameters_and_output_have_the_stated_shapes():
    inputs = jnp.ones((10, 1))
    model = MLP(hidden=(40, 40), outputs=1)
    params = model.init(jax.random.key(0), inputs)["params"]
    shapes = jax.tree.map(jnp.shape, params)
    assert shapes == {
        "dense_0": {"kernel": (1, 40), "bias": (40,)},
        "dense_1": {"kernel": (40, 40), "bias": (40,)},
        "head": {"kernel": (40, 1), "bias": (1,)},
    }
    chex.assert_shape(model.apply({"params": params}, inputs), (10, 1))


def test_layers_are_relu_of_affine_maps():
    inputs = jax.random.normal(jax.random.key(1), (6, 2))
    model = MLP(hidden=(5,), outputs=3)
    params = model.init(jax.random.key(0), inputs)["params"]
    params = jax.tree.map(lambda p: p + 0.1, params)
    body, head = params["dense_0"], params["head"]
    hidden = np.maximum(inputs @ body["kernel"] + body["bias"], 0)
    expected = hidden @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(model.apply({"params": params}, inputs), expected, rtol=1e-5)


def test_without_hidden_layers_it_is_linear():
    params = MLP(hidden=(), outputs=2).init(jax.random.key(0), jnp.ones((1, 3)))["params"]
    assert list(params) == ["head"]


@pytest.mark.parametrize(
    ("name", "std"), [("he", np.sqrt(2 / 400)), ("truncated_normal_0.01", 0.01)]
)
def test_kernel_initializers(name, std):
    assert name in INITIALIZERS
    model = MLP(hidden=(400, 400), outputs=1, kernel_init=name)
    params = model.init(jax.random.key(0), jnp.ones((1, 400)))["params"]
    kernel = np.asarray(params["dense_1"]["kernel"])
    assert abs(kernel.mean()) < 0.02 * std
    assert abs(kernel).max() < 2.3 * std  # truncated at 2 standard deviations of the normal
    np.testing.assert_allclose(kernel.std(), std, rtol=0.14)
    np.testing.assert_array_equal(params["dense_1"]["bias"], np.zeros(400))
