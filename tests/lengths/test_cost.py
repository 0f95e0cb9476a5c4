"""Costs of learned lengths: values, gradients and budgets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maml_jax import Gates, MetaParams
from maml_jax.lengths.cost import (
    Budget,
    LearnedLengths,
    annealed,
    compute_cost,
    mean_length_cost,
    penalize,
)
from maml_jax.lengths.flops import StepCosts, inner_compute
from maml_jax.meta.outer import keep_within

PARAMS = {"body": {"kernel": jnp.zeros((2, 3))}, "head": {"bias": jnp.zeros(2)}}
COSTS = StepCosts(
    forward=10.0,
    backward={"body/kernel": 6.0, "head/bias": 1.0},
    own={"body/kernel": 4.0, "head/bias": 2.0},
    fixed={"body/kernel": 0.0, "head/bias": 7.0},
)
GATES = Gates("ramp", "tensor", num_steps=4)


def lengths(body: float, head: float) -> MetaParams:
    return MetaParams(PARAMS, {"body/kernel": jnp.array(body), "head/bias": jnp.array(head)})


def test_mean_length_weights_tensors_by_their_number_of_parameters() -> None:
    cost = mean_length_cost(GATES, PARAMS)
    value, grads = jax.value_and_grad(cost)(lengths(3.0, 1.0), 1.0)
    np.testing.assert_allclose(value, (6 * 3 + 2 * 1) / (8 * 4))
    np.testing.assert_allclose(grads.lengths["body/kernel"], 6 / (8 * 4))
    np.testing.assert_allclose(grads.lengths["head/bias"], 2 / (8 * 4))


def test_backpropagation_is_charged_down_to_the_deepest_tensor_that_is_alive() -> None:
    cost = compute_cost(GATES, PARAMS, COSTS)
    # Two steps with both (10 + 6 + 6), two with the head alone (10 + 1 + 2), of four full steps.
    np.testing.assert_allclose(cost(lengths(2.0, 4.0), 1.0), (2 * 22 + 2 * 13) / (4 * 22))
    # A step of the deep layer alone includes the backward pass through the head.
    np.testing.assert_allclose(cost(lengths(4.0, 2.0), 1.0), (2 * 22 + 2 * 20) / (4 * 22))
    np.testing.assert_allclose(cost(lengths(0.0, 0.0), 1.0), 0.0)
    grads = jax.grad(cost)(lengths(1.5, 3.5), 1.0).lengths
    np.testing.assert_allclose(grads["body/kernel"], (6 - 1 + 4) / (4 * 22), rtol=1e-6)
    np.testing.assert_allclose(grads["head/bias"], (10 + 1 + 2) / (4 * 22), rtol=1e-6)


def test_features_below_the_adapted_tensors_are_charged_once() -> None:
    """As in the inner compute; the full cost is that of K full steps."""
    head = {"body": {"kernel": None}, "head": PARAMS["head"]}
    (backward, own, fixed) = ({"head/bias": of["head/bias"]} for of in COSTS[1:])
    costs = StepCosts(COSTS.forward, backward, own, fixed)
    cost = compute_cost(GATES, head, costs)
    for length in (0, 1, 3, 4):
        expected = inner_compute({"head/bias": length}, costs) / costs.full(4)
        meta_params = MetaParams(PARAMS, {"head/bias": jnp.array(float(length))})
        np.testing.assert_allclose(cost(meta_params, 1.0), expected, rtol=1e-6)


@pytest.mark.parametrize("gate", ["ramp", "sigmoid", "straight_through", "hard_concrete"])
def test_compute_only_penalizes_the_weights_that_keep_a_tensor_alive(gate: str) -> None:
    gates = Gates(gate, "parameter", num_steps=4)
    kappa = {
        "body/kernel": jnp.array([[3.4, 3.7, 0.2], [1.0, 3.6, 2.5]]),
        "head/bias": jnp.zeros(2),
    }
    cost = compute_cost(gates, PARAMS, COSTS)
    grads = jax.grad(cost)(MetaParams(PARAMS, kappa), 1.0).lengths["body/kernel"]
    assert np.all((np.asarray(grads) > 0) == (np.asarray(kappa["body/kernel"]) > 2.7))
    alone = compute_cost(Gates(gate, "tensor", num_steps=4), PARAMS, COSTS)
    np.testing.assert_allclose(
        cost(MetaParams(PARAMS, kappa), 1.0), alone(lengths(3.7, 0.0), 1.0), rtol=1e-6
    )


def test_a_weight_penalizes_the_cost_and_a_dual_variable_the_excess() -> None:
    term, dual = penalize(jnp.array(0.6), Budget(weight=0.5), jnp.array(0.0))
    np.testing.assert_allclose((term, dual), (0.3, 0.0))
    term, dual = penalize(jnp.array(0.6), Budget(target=0.2, dual_rate=0.1), jnp.array(2.0))
    np.testing.assert_allclose((term, dual), (2.0 * 0.4, 2.04), rtol=1e-6)
    _, dual = penalize(jnp.array(0.0), Budget(target=0.2, dual_rate=0.1), jnp.array(0.01))
    np.testing.assert_allclose(dual, 0.0)


def test_a_budget_without_its_dual_variable_is_named() -> None:
    gates, step = Gates("ramp", num_steps=4), jnp.int32(0)
    meta_params = MetaParams({"w": jnp.zeros(2)}, {"w": jnp.full(2, 2.0)})
    cost = mean_length_cost(gates, meta_params.init)
    assert LearnedLengths(gates).penalty(meta_params, step, ()) == (0, 0, ())
    weighed = LearnedLengths(gates, cost=cost, budget=Budget(weight=0.1))
    np.testing.assert_allclose(weighed.penalty(meta_params, step, ())[:2], (0.05, 0.5))
    held = weighed._replace(budget=Budget(target=0.2))
    with pytest.raises(ValueError, match="a budget needs init_state"):
        held.penalty(meta_params, step, ())
    with pytest.raises(ValueError, match=r"no lengths; begin with Gates\.init"):
        gates.soft()((), meta_params.init, step)


def test_a_budget_is_met() -> None:
    """Minimizes (κ/K − 1)² at a mean length of 30%: the dual variable finds the multiplier."""
    cost, kappa, dual = mean_length_cost(GATES, PARAMS), lengths(2.0, 2.0).lengths, jnp.zeros(())
    budget, costs = Budget(target=0.3, dual_rate=0.05), []

    @jax.jit
    def step(kappa: dict, dual: jax.Array) -> tuple[dict, jax.Array, jax.Array]:
        def loss(kappa: dict) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            share = cost(MetaParams(PARAMS, kappa), 1.0)
            term, new_dual = penalize(share, budget, dual)
            wish = sum(jnp.mean((value / 4 - 1) ** 2) for value in kappa.values())
            return wish + term, (share, new_dual)

        grads, (share, new_dual) = jax.grad(loss, has_aux=True)(kappa)
        kappa = jax.tree.map(lambda x, g: jnp.clip(x - 0.2 * g, 0, 4), kappa, grads)
        return kappa, new_dual, share

    for _ in range(2_000):
        kappa, dual, share = step(kappa, dual)
        costs.append(float(share))
    np.testing.assert_allclose(np.mean(costs[-200:]), 0.3, atol=0.01)


def test_temperature_decreases_geometrically_and_then_stays() -> None:
    temperature = annealed(2.0, 0.5, 100)
    values = [float(temperature(step)) for step in (0, 50, 100, 300)]
    np.testing.assert_allclose(values, [2.0, 1.0, 0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize(("update", "kept"), [(-5.0, 0.0), (5.0, 4.0), (0.5, 2.5)])
def test_lengths_are_kept_within_their_bounds(update: float, kept: float) -> None:
    transform = keep_within(0.0, 4.0)
    params = jnp.array(2.0)
    updates, _ = transform.update(jnp.array(update), transform.init(params), params)
    np.testing.assert_allclose(params + updates, kept)
