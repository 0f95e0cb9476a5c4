"""The meta-objective of one task."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maml_jax import InnerLoop, Objective, multi_step_weights
from tests.inner.problems import (
    OPTIMIZERS,
    assert_close,
    assert_moves,
    central_differences,
    float64,  # noqa: F401, a fixture
    meta_params,
    regression_data,
    regression_loss,
    textbook_adapt,
)

STEPS = 3


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_multi_step_weights_go_from_uniform_to_the_last(num_steps):
    weights = multi_step_weights(num_steps, anneal_steps=10)
    over_time = np.stack([weights(jnp.asarray(step)) for step in range(15)])
    assert over_time.shape == (15, num_steps)
    np.testing.assert_allclose(over_time.sum(axis=1), np.ones(15), rtol=1e-6)
    np.testing.assert_allclose(over_time[0], np.full(num_steps, 1 / num_steps), rtol=1e-6)
    np.testing.assert_allclose(over_time[10:, :-1], 0.03 / num_steps, rtol=1e-5)
    assert np.all(np.diff(over_time[:, :-1], axis=0) <= 0)
    halfway = np.full(num_steps - 1, 0.5 / num_steps)
    np.testing.assert_allclose(over_time[5, :-1], halfway, rtol=1e-6)


@pytest.mark.parametrize(("num_steps", "anneal_steps"), [(0, 5), (5, 0)])
def test_wrong_arguments_of_multi_step_weights_are_named(num_steps, anneal_steps):
    message = f"num_steps={num_steps}, anneal_steps={anneal_steps}; both must be at least 1"
    with pytest.raises(ValueError, match=message):
        multi_step_weights(num_steps, anneal_steps)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("meta_gradient", ["exact", "reverse", "first_order"])
@pytest.mark.parametrize("multi_step", [False, True])
def test_objective_equals_the_sum_of_a_python_loop(multi_step, meta_gradient):
    name, episode = "heavy_ball", (regression_data(0), regression_data(1))
    step_weights = multi_step_weights(STEPS, anneal_steps=10) if multi_step else None
    inner_loop = InnerLoop(
        regression_loss, OPTIMIZERS[name], num_steps=STEPS, meta_gradient=meta_gradient
    )
    objective = Objective(inner_loop, regression_loss, step_weights=step_weights)
    meta, step = meta_params(name)._replace(lengths=()), jnp.asarray(4)

    def textbook(meta):
        trajectory = textbook_adapt(
            name, regression_loss, meta, episode[0], jax.random.key(0), STEPS,
            constant_gradient=meta_gradient == "first_order",
        )  # fmt: skip
        losses = [regression_loss(params, episode[1], None)[0] for params in trajectory]
        early = 0.6 / STEPS  # linear from 1/K at meta-step 0 to 0 at 10, now 4
        weights = [0.0, early, early, 1 - 2 * early] if multi_step else [0.0, 0.0, 0.0, 1.0]
        return sum(w * loss for w, loss in zip(weights, losses, strict=True)), losses

    run = jax.jit(jax.value_and_grad(objective, has_aux=True))
    (loss, (metrics, extras)), grads = run(meta, episode, jax.random.key(0), step, {"dual": 2.0})
    (expected, losses), expected_grads = jax.value_and_grad(textbook, has_aux=True)(meta)
    assert_close((loss, grads), (expected, expected_grads))
    assert set(metrics) == {"query_loss", "support_loss", "mae"}
    assert_close(metrics["query_loss"], losses[-1])
    assert_close(metrics["support_loss"], regression_loss(meta.init, episode[0], None)[0])
    assert extras == {"dual": 2.0}


def test_objective_without_inner_steps_is_the_query_loss():
    episode, meta = (regression_data(0), regression_data(1)), meta_params()._replace(lengths=())
    inner_loop = InnerLoop(regression_loss, OPTIMIZERS["sgd"], num_steps=0)
    loss, (metrics, _) = Objective(inner_loop, regression_loss)(
        meta, episode, jax.random.key(0), jnp.asarray(0), ()
    )
    assert_close(loss, regression_loss(meta.init, episode[1], None)[0])
    assert "support_loss" not in metrics


def rollout_loss(params, goal, key):
    """Actions a = μ + σ ε under the current policy; the loss is their distance to a goal."""
    actions = params["mean"] + jnp.exp(params["log_std"]) * jax.random.normal(key, (8,), goal.dtype)
    return jnp.mean((jnp.sin(actions) - goal) ** 2), {}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("multi_step", [False, True])
def test_query_data_may_depend_on_the_adapted_parameters(multi_step):
    """Meta-gradient of support and query rollouts with common random numbers."""
    step_weights = multi_step_weights(2, anneal_steps=10) if multi_step else None
    inner_loop = InnerLoop(rollout_loss, OPTIMIZERS["heavy_ball"], num_steps=2)
    objective = Objective(inner_loop, rollout_loss, step_weights=step_weights)
    meta = meta_params()._replace(
        init={"mean": jnp.asarray(0.3), "log_std": jnp.asarray(-1.0)},
        step_sizes=jnp.asarray(0.2),
        lengths=(),
    )

    def loss(meta):
        goal = jnp.asarray(0.8)
        return objective(meta, (goal, goal), jax.random.key(1), jnp.asarray(0), ())[0]

    grads = jax.jit(jax.grad(loss))(meta)
    assert_close(grads, central_differences(loss, meta), rtol=1e-6, atol=1e-9)
    assert_moves(grads)
