"""Each kind of normalization against its definition."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maml_jax.models.conv4 import Conv4
from maml_jax.models.mlp import MLP
from maml_jax.models.normalization import (
    Normalization,
    at_step,
    moments_of_examples,
    with_steps,
)
from maml_jax.models.resnet12 import ResNet12

EPSILON = 1e-3


def standardize(x, axes):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + EPSILON)


@pytest.mark.parametrize("shape", [(6, 4), (6, 5, 3, 4)])
def test_every_kind_equals_its_definition(shape):
    x = np.random.default_rng(0).normal(2.0, 3.0, size=shape).astype(np.float32)
    axes = tuple(range(len(shape) - 1))

    def run(kind, **options):
        return Normalization(kind, groups=2).init_with_output(jax.random.key(0), x, **options)[0]

    expected = standardize(x, axes)
    np.testing.assert_allclose(run("batch"), expected, atol=1e-5)
    np.testing.assert_allclose(run("per_step"), expected, atol=1e-5)
    np.testing.assert_allclose(run("support"), expected, atol=1e-5)
    reference = x[:2]
    expected = (x - reference.mean(axes)) / np.sqrt(reference.var(axes) + EPSILON)
    np.testing.assert_allclose(run("support", num_reference=2), expected, atol=1e-4)
    grouped = x.reshape(*shape[:-1], 2, 2)
    expected = standardize(grouped, (*range(1, len(shape) - 1), len(shape))).reshape(shape)
    np.testing.assert_allclose(run("group"), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("network", "size", "last"),
    [
        (MLP((3, 3), 2, normalization="per_step_last"), 4, {"norm_1"}),
        (Conv4(2, filters=2, normalization="per_step_last"), 16, {"norm_3"}),
        (
            ResNet12(2, widths=(1, 1, 1, 2), normalization="per_step_last"),
            16,
            {f"norm_3_{name}" for name in (0, 1, 2, "shortcut")},
        ),
    ],
)
def test_per_step_last_has_rows_in_the_last_layer_alone(network, size, last):
    inputs = jnp.zeros((2, 4) if isinstance(network, MLP) else (2, size, size, 1))
    params = jax.eval_shape(network.init, jax.random.key(0), inputs)["params"]
    layers = {name: set(of) for name, of in params.items() if name.startswith("norm")}
    assert {name for name, of in layers.items() if of == {"step_scale", "step_shift"}} == last
    assert all(of == {"shift"} for name, of in layers.items() if name not in last)


def test_a_layer_has_the_kind_of_its_place():
    with pytest.raises(ValueError, match=r"use kind_of_layer\('per_step_last', last="):
        Normalization("per_step_last").init(jax.random.key(0), jnp.zeros((2, 3)))


def test_given_moments_replace_computed_ones():
    x = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
    layer = Normalization()
    params = layer.init(jax.random.key(0), x)
    given = layer.apply(params, x, moments_of_examples(x))
    chex.assert_trees_all_equal(given, layer.apply(params, x))


def test_per_step_parameters_are_indexed_by_name():
    params = {"norm": {"step_scale": jnp.ones(3), "step_shift": jnp.zeros(3)}, "b": jnp.ones(3)}
    stepped = with_steps(params, 2)
    chex.assert_shape(stepped["norm"]["step_scale"], (3, 3))
    stepped["norm"]["step_shift"] = jnp.arange(9.0).reshape(3, 3)
    chex.assert_trees_all_equal(at_step(stepped, 1)["norm"]["step_shift"], jnp.array([3.0, 4, 5]))
    chex.assert_trees_all_equal(at_step(stepped, 9)["norm"]["step_shift"], jnp.array([6.0, 7, 8]))
    chex.assert_trees_all_equal(at_step(stepped, 1)["b"], params["b"])


@pytest.mark.parametrize("normalization", ["batch", "support"])
def test_mlp_for_omniglot(normalization):
    model = MLP((256, 128, 64, 64), 5, "truncated_normal_0.01", normalization, flatten=True)
    images = jax.random.uniform(jax.random.key(1), (6, 28, 28, 1))
    logits, variables = model.init_with_output(jax.random.key(0), images)
    chex.assert_shape(logits, (6, 5))
    params = variables["params"]
    chex.assert_shape(params["dense_0"]["kernel"], (784, 256))
    assert sorted(params["dense_0"]) == ["kernel"]
    assert sorted(params["norm_0"]) == ["shift"]
    if normalization == "support":
        chex.assert_shape(model.apply(variables, images, num_reference=4), (2, 5))
