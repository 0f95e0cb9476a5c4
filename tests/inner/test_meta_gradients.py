"""Estimators of the meta-gradient against finite differences and stop_gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maml_jax import MetaParams
from maml_jax.inner.optimizers.registry import heavy_ball, sgd
from tests.inner.problems import (
    META_GRADIENTS,
    OPTIMIZERS,
    adapt,
    assert_close,
    assert_moves,
    central_differences,
    float64,  # noqa: F401, a fixture
    meta_params,
    net_params,
    noisy_loss,
    regression_data,
    regression_loss,
    toy_gates,
)
from tests.marks import slow_but

STEPS = 3
TRUE = ("exact", "reverse")  # estimators of the true gradient


def everything_loss(inputs, name, meta_gradient):
    """Query loss as a function of all differentiable inputs (meta, support, decay).

    `decay` is a traced value that the loss closes over.
    """
    meta, support, decay = inputs

    def loss_fn(params, support, key):
        loss, aux = noisy_loss(params, support, key)
        return loss + decay * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)), aux

    adaptation = adapt(
        loss_fn, OPTIMIZERS[name], meta, support, jax.random.key(1),
        num_steps=STEPS, gates=toy_gates, meta_gradient=meta_gradient,
    )  # fmt: skip
    return regression_loss(adaptation.params, regression_data(1), None)[0]


def everything(name, per_tensor):
    return meta_params(name, per_tensor=per_tensor), regression_data(0), jnp.asarray(0.1)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "per_tensor"),
    slow_but(
        [("heavy_ball", True), ("nesterov", False)],
        [*((name, True) for name in OPTIMIZERS), ("nesterov", False)],
    ),
)
def test_exact_equals_reverse_equals_finite_differences(name, per_tensor):
    """For all meta-parameters, support data and a value that the loss closes over."""
    inputs = everything(name, per_tensor)
    losses = {kind: partial(everything_loss, name=name, meta_gradient=kind) for kind in TRUE}
    exact, reverse = (jax.jit(jax.value_and_grad(losses[kind]))(inputs) for kind in TRUE)
    assert_close(exact, reverse)
    differences = central_differences(losses["reverse"], inputs)
    assert_close(reverse[1], differences, rtol=1e-5, atol=1e-8)
    meta_grads, *others = reverse[1]
    assert_moves((meta_grads.init, meta_grads.lengths, meta_grads.step_sizes, others))
    if name in ("heavy_ball", "nesterov"):
        assert_moves(meta_grads.optimizer)


def reinforcement_loss(params, goal, key):
    """Rollouts under the current policy: actions a = μ + σ ε steer a point to a goal."""

    def act(position, key):
        noise = jax.random.normal(key, (8,), goal.dtype)
        action = params["gain"] * position + params["bias"] + jnp.exp(params["log_std"]) * noise
        position = position + 0.5 * action
        return position, (position - goal) ** 2 + 0.1 * action**2

    costs = jax.lax.scan(act, jnp.ones(8, goal.dtype), jax.random.split(key, 2))[1]
    return jnp.mean(costs), {}


@pytest.mark.usefixtures("float64")
def test_losses_may_generate_their_data():
    """Support and query data depend on (current parameters, key): common random numbers."""

    def query_loss(inputs, meta_gradient):
        meta, goal = inputs
        adaptation = adapt(
            reinforcement_loss, heavy_ball, meta, goal, jax.random.key(1),
            num_steps=STEPS, meta_gradient=meta_gradient,
        )  # fmt: skip
        return reinforcement_loss(adaptation.params, goal, jax.random.key(2))[0]

    policy = {"gain": jnp.asarray(0.2), "bias": jnp.asarray(-0.1), "log_std": jnp.asarray(-1.0)}
    meta = MetaParams(policy, step_sizes=jnp.asarray(0.1), optimizer={"momentum": jnp.asarray(0.5)})
    inputs = meta, jnp.asarray(2.0)
    gradient = jax.jit(jax.grad(query_loss), static_argnums=1)
    exact, reverse = (gradient(inputs, kind) for kind in TRUE)
    assert_close(exact, reverse)
    differences = central_differences(lambda x: query_loss(x, "reverse"), inputs)
    assert_close(exact, differences, rtol=1e-6, atol=1e-9)
    assert_moves(exact)


CLOSED_OVER = {
    "float": lambda task: jnp.arange(2.0)[task],
    "integer": lambda task: task,
    "bool": lambda task: task == 1,
    "key": lambda task: jax.random.fold_in(jax.random.key(0), task),
}


@pytest.mark.parametrize("meta_gradient", META_GRADIENTS)
@pytest.mark.parametrize("kind", CLOSED_OVER)
def test_the_loss_may_close_over_a_traced_value_of_its_task(kind, meta_gradient):
    """Under jit and vmap, for values of any type."""

    def target(value):
        return jax.random.uniform(value) if kind == "key" else 1.0 * value

    def adapted(init, value):
        meta = MetaParams(init, step_sizes=0.25)
        return adapt(
            lambda params, support, key: ((params - target(value)) ** 2, ()), sgd, meta, None,
            jax.random.key(0), num_steps=2, meta_gradient=meta_gradient,
        ).params  # fmt: skip

    values = jax.vmap(CLOSED_OVER[kind])(jnp.arange(2))
    run = jax.jit(jax.vmap(jax.value_and_grad(adapted), (None, 0)))
    params, grads = run(jnp.asarray(2.0), values)
    expected = 0.25 * 2.0 + 0.75 * jax.vmap(target)(values)
    np.testing.assert_allclose(params, expected, rtol=1e-5)
    slope = 1.0 if meta_gradient == "first_order" else 0.25
    np.testing.assert_allclose(grads, np.full(2, slope), rtol=1e-5)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", slow_but(["sgd", "heavy_ball"], OPTIMIZERS))
def test_first_order_equals_stop_gradient_on_the_inner_gradient(name):
    """It equals the gradient of a loss with a constant gradient, L = ⟨stop_gradient(g(θ)), θ⟩."""
    inputs = everything(name, True)

    def linearized(inputs):
        meta, support, decay = inputs

        def loss_fn(params, support, key):
            def loss(params):
                weight = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
                return noisy_loss(params, support, key)[0] + decay * weight

            constant = jax.lax.stop_gradient(jax.grad(loss)(params))
            products = jax.tree.map(lambda g, p: jnp.sum(g * p), constant, params)
            return sum(jax.tree.leaves(products)), ()

        adaptation = adapt(
            loss_fn, OPTIMIZERS[name], meta, support, jax.random.key(1),
            num_steps=STEPS, gates=toy_gates, meta_gradient="reverse",
        )  # fmt: skip
        return regression_loss(adaptation.params, regression_data(1), None)[0]

    actual = jax.jit(jax.value_and_grad(lambda x: everything_loss(x, name, "first_order")))(inputs)
    assert_close(actual, jax.jit(jax.value_and_grad(linearized))(inputs))
    assert_moves((actual[1][0].init, actual[1][0].step_sizes))
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(actual[1][1:]))


def test_integer_support_data_pass_through_every_meta_gradient():
    """Class labels have no derivative, but other leaves of the same pytree do."""
    inputs, labels = jnp.ones((4, 1)), jnp.array([0, 1, 0, 2])

    def loss_fn(params, support, key):
        inputs, labels = support
        scores = jnp.tanh(inputs @ params["body"]["kernel"]) * params["head"]["kernel"][:, 0]
        return -jnp.mean(jax.nn.log_softmax(scores)[jnp.arange(4), labels]), ()

    def query_loss(inputs, meta_gradient):
        meta = MetaParams(net_params(), step_sizes=0.1)
        run = adapt(
            loss_fn, sgd, meta, (inputs, labels), jax.random.key(0),
            num_steps=2, meta_gradient=meta_gradient,
        )  # fmt: skip
        return loss_fn(run.params, (jnp.ones((4, 1)), labels), None)[0]

    gradient = jax.jit(jax.grad(query_loss), static_argnums=1)
    exact, reverse = (gradient(inputs, kind) for kind in TRUE)
    assert_moves(reverse)
    assert_close(exact, reverse, rtol=1e-4, atol=1e-6)
