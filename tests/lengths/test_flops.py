"""Counted FLOPs against cases worked out by hand, XLA's count and whole programs."""

from functools import cache
from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maml_jax import Examples, InnerLoop, MetaParams
from maml_jax.inner.optimizers import (
    curvature_matrices,
    scale_by_anderson,
    scale_by_curvature,
    scale_by_heavy_ball,
)
from maml_jax.lengths.cost import expected_step, largest
from maml_jax.lengths.flops import StepCosts, count_flops, inner_compute, step_costs
from maml_jax.models.conv4 import Conv4
from maml_jax.models.convolution import lax_convolution
from maml_jax.models.losses import classification_loss
from maml_jax.models.mlp import MLP
from maml_jax.params import merge_params, split_params, with_paths

WAYS, SUPPORT = 3, 6
NETWORKS = {
    "mlp": (MLP((7, 5), WAYS), (4,)),
    "conv4": (Conv4(WAYS, filters=4), (28, 28, 1)),
}


def shape(*axes):
    return jax.ShapeDtypeStruct(axes, jnp.float32)


def problem(model, inputs, support=SUPPORT):
    """Returns (loss_fn, shapes of params, shapes of support data); nothing is computed."""
    params = jax.eval_shape(model.init, jax.random.key(0), shape(1, *inputs))["params"]
    labels = jax.ShapeDtypeStruct((support,), jnp.int32)
    return classification_loss(model), params, Examples(shape(support, *inputs), labels)


@cache
def network_costs(name):
    return step_costs(*problem(*NETWORKS[name]))


def subsets(costs, number=10):
    """Nonempty sets of updated tensors, path -> bool."""
    rng = np.random.default_rng(0)
    for index in range(number):
        alive = {path: bool(rng.random() < 0.4) for path in costs.own}
        yield alive | {list(alive)[index % len(alive)]: True}


COUNTED = {
    "matmul": (jnp.matmul, (shape(2, 3), shape(3, 4)), 2 * 2 * 3 * 4),
    "batched matmul": (jnp.matmul, (shape(5, 2, 3), shape(5, 3, 4)), 5 * 2 * 2 * 3 * 4),
    "two contracted axes": (
        lambda x, y: jnp.einsum("abc,bcd->ad", x, y),
        (shape(2, 3, 4), shape(3, 4, 5)),
        2 * 2 * (3 * 4) * 5,
    ),
    "elementwise": (lambda x: jnp.tanh(x) * x, (shape(8),), 0),
    "scan": (
        lambda x, y: jax.lax.scan(lambda x, _: (x @ y, None), x, length=7)[0],
        (shape(2, 3), shape(3, 3)),
        7 * 2 * 2 * 3 * 3,
    ),
    "cond": (
        lambda x, y: jax.lax.cond(True, lambda: x @ y @ y, lambda: x @ y),
        (shape(2, 3), shape(3, 3)),
        2 * (2 * 2 * 3 * 3),
    ),
    "inside jit and checkpoint": (
        jax.jit(jax.checkpoint(jnp.matmul)),
        (shape(2, 3), shape(3, 4)),
        2 * 2 * 3 * 4,
    ),
    "convolution": (
        lambda x, w: lax_convolution(x, w, 2),
        (shape(3, 8, 8, 2), shape(3, 3, 2, 5)),
        2 * (3 * 4 * 4 * 5) * (3 * 3 * 2),
    ),
    # This is a grouped convolution, in which a filter only sees the channels of its own task.
    "convolution for each of 4 tasks": (
        jax.vmap(lambda x, w: lax_convolution(x, w, 2)),
        (shape(4, 3, 8, 8, 2), shape(4, 3, 3, 2, 5)),
        4 * 2 * (3 * 4 * 4 * 5) * (3 * 3 * 2),
    ),
}


@pytest.mark.parametrize("name", COUNTED)
def test_counts_worked_out_by_hand(name):
    fn, examples, expected = COUNTED[name]
    assert count_flops(fn, *examples) == expected


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("argument", [0, 1])
def test_each_gradient_of_a_convolution_costs_as_much_as_the_convolution(stride, argument):
    """Every product of a tap and a pixel is one multiply-add in each gradient."""
    examples = shape(3, 8, 8, 2), shape(3, 3, 2, 5)

    def convolve(x, w):
        return lax_convolution(x, w, stride)

    def pull_back(x, w, cotangent):
        other = (x, w)[1 - argument]
        linear = (lambda x: convolve(x, other)) if argument == 0 else (lambda w: convolve(other, w))
        return jax.linear_transpose(linear, (x, w)[argument])(cotangent)

    forward = count_flops(convolve, *examples)
    cotangent = jax.eval_shape(convolve, *examples)
    assert count_flops(pull_back, *examples, cotangent) == forward


def test_step_costs_of_an_mlp_in_closed_form():
    widths = [4, 7, 5, WAYS]
    layers = [2 * SUPPORT * a * b for a, b in pairwise(widths)]
    costs = network_costs("mlp")
    assert costs.forward == sum(layers)
    names = ["dense_0", "dense_1", "head"]
    for index, name in enumerate(names):
        later = sum(layers[index + 1 :])
        assert costs.step({f"{name}/bias": True}) == sum(layers) + later
        assert costs.step({f"{name}/kernel": True}) == sum(layers) + later + layers[index]
        assert costs.backward[f"{name}/bias"] == later
    for index, name in enumerate(names[1:], 1):
        assert costs.backward[f"{name}/kernel"] == sum(layers[index + 1 :])
        assert costs.own[f"{name}/kernel"] == layers[index]
    assert costs.full_step == 2 * sum(layers) + sum(layers[1:])


@pytest.mark.parametrize("name", ["mlp", pytest.param("conv4", marks=pytest.mark.slow)])
def test_a_step_costs_as_much_as_the_gradient_of_its_tensors(name):
    loss_fn, params, support = problem(*NETWORKS[name])
    costs = network_costs(name)
    for alive in subsets(costs):
        updated, others = split_params(params, alive.get)

        def gradient(updated, others, support):
            return jax.grad(
                lambda updated: loss_fn(merge_params(updated, others), support, None)[0]
            )(updated)  # fmt: skip

        assert costs.step(alive) == count_flops(gradient, updated, others, support), alive
    assert costs.step(dict.fromkeys(costs.own, False)) == 0


def test_frozen_tensors_have_no_costs():
    """If only the head is adapted, as in ANIL, there is no backward pass below it."""
    loss_fn, params, support = problem(*NETWORKS["mlp"])
    costs = step_costs(loss_fn, params, support, adapts=lambda path: path.startswith("head/"))
    assert set(costs.own) == {"head/kernel", "head/bias"}
    head = 2 * SUPPORT * 5 * WAYS
    assert costs.full_step == costs.forward + head
    # Its features are evaluated once; a step evaluates and differentiates the head.
    assert costs.fixed == dict.fromkeys(costs.own, costs.forward - head) | {
        "head/bias": costs.forward
    }
    assert costs.full(5) == costs.forward + 4 * head + 5 * head


def test_the_fixed_part_of_the_forward_pass_is_what_lies_below_a_tensor():
    widths, costs = [4, 7, 5, WAYS], network_costs("mlp")
    layers = [2 * SUPPORT * a * b for a, b in pairwise(widths)]
    for index, name in enumerate(["dense_0", "dense_1", "head"]):
        assert costs.fixed[f"{name}/kernel"] == sum(layers[:index])
        assert costs.fixed[f"{name}/bias"] == sum(layers[: index + 1])
    convolutions = network_costs("conv4")
    assert 0 == convolutions.fixed["conv_0/kernel"] < convolutions.fixed["conv_1/kernel"]
    assert convolutions.fixed["head/bias"] == convolutions.forward


def test_products_of_the_optimizer_are_charged_to_the_tensors_that_they_are_made_for():
    loss_fn, params, support = problem(MLP((40, 40), 1), (1,))
    matrices = jax.eval_shape(curvature_matrices, params)
    plain = step_costs(loss_fn, params, support)
    with_matrices = jax.tree.map(lambda of: jnp.zeros(of.shape), matrices)
    for optimizer in (
        scale_by_curvature(with_matrices),
        optax.chain(scale_by_curvature(with_matrices), scale_by_heavy_ball(0.9)),
    ):
        costs = step_costs(loss_fn, params, support, optimizer=optimizer)
        for path, leaf in with_paths(params).items():
            products = sum(2 * leaf.size * axis for axis in leaf.shape)
            assert costs.own[path] == plain.own[path] + products
    assert costs.full_step - plain.full_step == 268_962
    anderson = step_costs(loss_fn, params, support, optimizer=scale_by_anderson(0.1, 3))
    added = {path: anderson.own[path] - plain.own[path] for path in plain.own}
    sizes = {path: leaf.size for path, leaf in with_paths(params).items()}
    # The Gram matrix, its right side, and two combinations of three columns.
    expected = {path: (2 * 9 + 2 * 3 + 4 * 3) * size for path, size in sizes.items()}
    assert added == pytest.approx(expected, rel=1e-3)


# XLA also counts elementwise operations, about 15 for each output of a convolution, against
# 18 · channels of the convolution itself. With 64 filters they are few in comparison.
@pytest.mark.parametrize(
    ("model", "inputs"),
    [(Conv4(5, filters=64, convolution="im2col"), (28, 28, 1)), (MLP((64, 64), 5), (64,))],
    ids=["conv4", "mlp"],
)
def test_counts_agree_with_xla(model, inputs):
    loss_fn, params, support = problem(model, inputs, support=20)

    def value_and_grad(params, support):
        return jax.value_and_grad(loss_fn, has_aux=True)(params, support, None)

    compiled = jax.jit(value_and_grad).lower(params, support).compile()
    counted = count_flops(value_and_grad, params, support)
    np.testing.assert_allclose(counted, compiled.cost_analysis()["flops"], rtol=0.05)


BY_HAND = StepCosts(100.0, {"deep": 50.0, "middle": 20.0, "top": 0.0},
                    {"deep": 0.0, "middle": 7.0, "top": 3.0},
                    {"deep": 0.0, "middle": 30.0, "top": 80.0})  # fmt: skip


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ({"deep": 0, "middle": 0, "top": 0}, 0),
        ({}, 0),
        ({"deep": 0, "middle": 0, "top": 1}, 103),
        ({"deep": 0, "middle": 0, "top": 3}, 103 + 2 * 23),
        ({"deep": 0, "middle": 2, "top": 3}, 130 + 100 + 73),
        ({"deep": 1, "middle": 3, "top": 0}, 157 + 127 + 97),
        ({"deep": 2, "middle": 2, "top": 2}, 2 * BY_HAND.full_step),
    ],
)
def test_inner_compute_worked_out_by_hand(lengths, expected):
    assert inner_compute(lengths, BY_HAND) == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_expected_step_of_hard_gates_is_the_cost_of_the_step(name):
    costs = network_costs(name)
    nothing = dict.fromkeys(costs.own, False)
    for alive in [*subsets(costs), nothing, dict.fromkeys(nothing, True)]:
        shares = {path: jnp.float32(yes) for path, yes in alive.items()}
        cost = jax.jit(lambda on: expected_step(on, costs))(shares)
        np.testing.assert_allclose(cost, costs.step(alive), rtol=1e-6)


def test_expected_step_of_soft_gates_charges_by_share():
    """The backward pass of the deepest tensor covers the smaller shares of those above it."""
    on = {"deep": jnp.array(0.5), "middle": jnp.array(0.2), "top": jnp.array(0.0)}
    cost = expected_step(on, BY_HAND)
    np.testing.assert_allclose(cost, 0.5 * (100 + 50) + 0.2 * 7, rtol=1e-6)


@pytest.mark.parametrize("level", ["zeros", "ones", "between"])
def test_expected_step_has_a_finite_and_nonnegative_gradient(level):
    rng = np.random.default_rng(2)
    make = {
        "zeros": np.zeros,
        "ones": np.ones,
        "between": lambda shape: rng.uniform(0.01, 0.99, shape),
    }[level]
    on = {path: jnp.asarray(make(()), jnp.float32) for path in BY_HAND.own}
    gradient = jax.jit(jax.grad(lambda on: expected_step(on, BY_HAND)))(on)
    leaves = np.array(jax.tree.leaves(gradient))
    assert np.all(np.isfinite(leaves))
    assert np.all(leaves >= 0)
    assert leaves.max() > 0


def test_the_derivative_of_the_largest_element_is_spread_over_those_near_to_it():
    """Elements far below the largest have no derivative."""
    values = jnp.array([0.8, 0.6, 0.1])
    value, gradient = jax.value_and_grad(largest)(values, values > 0.4)
    np.testing.assert_allclose(value, 0.8)
    np.testing.assert_allclose(gradient, [0.5, 0.5, 0.0])
    nothing = jax.grad(largest)(values, values > 1)
    np.testing.assert_array_equal(nothing, jnp.zeros(3))


def test_features_of_a_step_are_not_computed_once():
    """Those of parameters that hold a row for every step, here the first layer."""
    loss_fn, params, support = problem(*NETWORKS["mlp"])
    plain = step_costs(loss_fn, params, support)

    def at_step(params, k):
        return params | {"dense_0": jax.tree.map(lambda leaf: leaf * (k + 1), params["dense_0"])}

    costs = step_costs(loss_fn, params, support, at_step=at_step)
    assert costs[:3] == plain[:3]
    assert plain.fixed["head/bias"] == plain.forward
    assert set(costs.fixed.values()) == {0.0}


OTHER_PROGRAMS = {  # functions whose equations have programs of their own, of other inputs
    "scatter": lambda x, w: x.at[jnp.array([1])].add(x[:1] @ w),
    "minimum": lambda x, w: jax.lax.reduce(
        (x @ w, x), (jnp.inf, 0.0), lambda a, b: (jnp.minimum(a[0], b[0]), a[1] + b[1]), (0,)
    )[0],
    "window": lambda x, w: jax.lax.reduce_window(x @ w, 0.0, jax.lax.add, (2, 1), (1, 1), "VALID"),
    "one branch": lambda x, w: jax.lax.switch(0, [jnp.matmul], x, w),
    "solution": lambda x, w: jnp.linalg.solve(jnp.eye(3) + x @ w, x),
    "sorted": lambda x, w: jnp.sort(x @ w),
}


@pytest.mark.parametrize("name", OTHER_PROGRAMS)
def test_losses_with_inner_programs_can_be_adapted(name):
    function, x = OTHER_PROGRAMS[name], jnp.eye(3) + 0.1

    def loss(params, support, key):
        hidden = function(support @ params["first"], params["second"])
        return (hidden**2).mean(), {}

    params = {"first": jnp.eye(3), "second": 0.5 * jnp.eye(3)}
    loop = InnerLoop(loss, num_steps=1, meta_gradient="first_order")
    adapted = loop(MetaParams(params, step_sizes=0.1), x, jax.random.key(0)).params
    grads = jax.grad(lambda params: loss(params, x, None)[0])(params)
    chex.assert_trees_all_close(adapted, jax.tree.map(lambda p, g: p - 0.1 * g, params, grads))
