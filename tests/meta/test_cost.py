"""The cost of learned lengths: its value, its gradient, and the budget that holds it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maml_jax import Halting, MetaParams
from maml_jax.inner.compute import StepCosts
from maml_jax.meta.cost import (
    Budget,
    LearnedLengths,
    annealed,
    compute_cost,
    mean_length_cost,
    penalty,
)
from maml_jax.meta.outer import keep_within

PARAMS = {"body": {"kernel": jnp.zeros((2, 3))}, "head": {"bias": jnp.zeros(2)}}
COSTS = StepCosts(
    forward=10.0,
    backward={"body/kernel": 6.0, "head/bias": 1.0},
    own={"body/kernel": 4.0, "head/bias": 2.0},
)
HALTING = Halting("ramp", "tensor", num_steps=4)


def lengths(body: float, head: float) -> MetaParams:
    return MetaParams(PARAMS, {"body/kernel": jnp.array(body), "head/bias": jnp.array(head)})


def test_mean_length_counts_parameters_not_tensors() -> None:
    cost = mean_length_cost(HALTING, PARAMS)
    value, grads = jax.value_and_grad(cost)(lengths(3.0, 1.0), 1.0)
    np.testing.assert_allclose(value, (6 * 3 + 2 * 1) / (8 * 4))
    np.testing.assert_allclose(grads.halting["body/kernel"], 6 / (8 * 4))
    np.testing.assert_allclose(grads.halting["head/bias"], 2 / (8 * 4))


def test_compute_is_paid_down_to_the_deepest_tensor_alive() -> None:
    cost = compute_cost(HALTING, PARAMS, COSTS)
    # Two steps with both (10 + 6 + 6), two with the head alone (10 + 1 + 2), of four full steps.
    np.testing.assert_allclose(cost(lengths(2.0, 4.0), 1.0), (2 * 22 + 2 * 13) / (4 * 22))
    # Whoever stays behind in the deep layer pays for the way there as well.
    np.testing.assert_allclose(cost(lengths(4.0, 2.0), 1.0), (2 * 22 + 2 * 20) / (4 * 22))
    np.testing.assert_allclose(cost(lengths(0.0, 0.0), 1.0), 0.0)
    grads = jax.grad(cost)(lengths(1.5, 3.5), 1.0).halting
    np.testing.assert_allclose(grads["body/kernel"], (6 - 1 + 4) / (4 * 22), rtol=1e-6)
    np.testing.assert_allclose(grads["head/bias"], (10 + 1 + 2) / (4 * 22), rtol=1e-6)


@pytest.mark.parametrize("gate", ["ramp", "sigmoid", "straight_through", "hard_concrete"])
def test_compute_presses_on_the_weights_that_keep_a_tensor_alive(gate: str) -> None:
    halting = Halting(gate, "parameter", num_steps=4)
    kappa = {
        "body/kernel": jnp.array([[3.4, 3.7, 0.2], [1.0, 3.6, 2.5]]),
        "head/bias": jnp.zeros(2),
    }
    cost = compute_cost(halting, PARAMS, COSTS)
    grads = jax.grad(cost)(MetaParams(PARAMS, kappa), 1.0).halting["body/kernel"]
    assert np.all((np.asarray(grads) > 0) == (np.asarray(kappa["body/kernel"]) > 2.7))
    alone = compute_cost(Halting(gate, "tensor", num_steps=4), PARAMS, COSTS)
    np.testing.assert_allclose(
        cost(MetaParams(PARAMS, kappa), 1.0), alone(lengths(3.7, 0.0), 1.0), rtol=1e-6
    )


def test_a_weight_presses_constantly_and_a_dual_variable_by_the_excess() -> None:
    term, dual = penalty(jnp.array(0.6), Budget(weight=0.5), jnp.array(0.0))
    np.testing.assert_allclose((term, dual), (0.3, 0.0))
    term, dual = penalty(jnp.array(0.6), Budget(target=0.2, dual_rate=0.1), jnp.array(2.0))
    np.testing.assert_allclose((term, dual), (2.0 * 0.4, 2.04), rtol=1e-6)
    _, dual = penalty(jnp.array(0.0), Budget(target=0.2, dual_rate=0.1), jnp.array(0.01))
    np.testing.assert_allclose(dual, 0.0)


def test_a_budget_without_its_dual_variable_is_named() -> None:
    halting, step = Halting("ramp", num_steps=4), jnp.int32(0)
    meta_params = MetaParams({"w": jnp.zeros(2)}, {"w": jnp.full(2, 2.0)})
    cost = mean_length_cost(halting, meta_params.init)
    assert LearnedLengths(halting).term(meta_params, step, ()) == (0, 0, ())
    weighed = LearnedLengths(halting, cost=cost, budget=Budget(weight=0.1))
    np.testing.assert_allclose(weighed.term(meta_params, step, ())[:2], (0.05, 0.5))
    held = weighed._replace(budget=Budget(target=0.2))
    with pytest.raises(ValueError, match="a budget needs init_state"):
        held.term(meta_params, step, ())
    with pytest.raises(ValueError, match=r"no lengths; begin with Halting\.init"):
        halting.soft()((), meta_params.init, step)


def test_a_budget_is_held() -> None:
    """minimise (κ/K − 1)² at a mean length of 30%: the dual variable finds the multiplier."""
    cost, kappa, dual = mean_length_cost(HALTING, PARAMS), lengths(2.0, 2.0).halting, jnp.zeros(())
    budget, costs = Budget(target=0.3, dual_rate=0.05), []

    @jax.jit
    def step(kappa: dict, dual: jax.Array) -> tuple[dict, jax.Array, jax.Array]:
        def loss(kappa: dict) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            share = cost(MetaParams(PARAMS, kappa), 1.0)
            term, new_dual = penalty(share, budget, dual)
            wish = sum(jnp.mean((value / 4 - 1) ** 2) for value in kappa.values())
            return wish + term, (share, new_dual)

        grads, (share, new_dual) = jax.grad(loss, has_aux=True)(kappa)
        kappa = jax.tree.map(lambda x, g: jnp.clip(x - 0.2 * g, 0, 4), kappa, grads)
        return kappa, new_dual, share

    for _ in range(2_000):
        kappa, dual, share = step(kappa, dual)
        costs.append(float(share))
    np.testing.assert_allclose(np.mean(costs[-200:]), 0.3, atol=0.01)


def test_temperature_falls_geometrically_and_stays() -> None:
    temperature = annealed(2.0, 0.5, 100)
    values = [float(temperature(step)) for step in (0, 50, 100, 300)]
    np.testing.assert_allclose(values, [2.0, 1.0, 0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize(("update", "kept"), [(-5.0, 0.0), (5.0, 4.0), (0.5, 2.5)])
def test_lengths_are_kept_within_their_bounds(update: float, kept: float) -> None:
    transform = keep_within(0.0, 4.0)
    params = jnp.array(2.0)
    updates, _ = transform.update(jnp.array(update), transform.init(params), params)
    np.testing.assert_allclose(params + updates, kept)
