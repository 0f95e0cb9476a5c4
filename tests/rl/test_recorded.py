"""Live rollouts against recorded ones; meta-gradients and Fisher products; the step of TRPO."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from maml_jax import MetaParams, TrainStep, init_state, optax_outer, outer_chain
from maml_jax.meta.outer import MetaObjective, OuterResult, OuterStep
from maml_jax.rl import SURROGATES, trpo
from tests.inner.problems import assert_close, float64  # noqa: F401, a fixture
from tests.rl.problems import KEY, fresh_meta_params, make_objective, sample

pytestmark = pytest.mark.usefixtures("float64")
STEP = jnp.int32(0)


def value(objective: Any, episode: Any, metric: str = "loss") -> Any:
    """meta-parameters, flat -> loss or metric."""
    unravel = ravel_pytree(fresh_meta_params())[1]

    def of(flat: Any) -> Any:
        loss, (metrics, _) = objective(unravel(flat), episode, KEY, STEP, ())
        return loss if metric == "loss" else metrics[metric]

    return of


def recorded(objective: Any) -> Any:
    return jax.jit(objective.record)(fresh_meta_params(), sample(KEY), KEY, STEP)


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_derivatives_on_recorded_rollouts(surrogate: str) -> None:
    """Live = recorded, exact = reverse = finite differences, for gradients and Fisher products."""
    exact = make_objective(surrogate)
    reverse = make_objective(surrogate, meta_gradient="reverse")
    episode, (flat, _) = recorded(exact), ravel_pytree(fresh_meta_params())
    loss = value(exact, episode)
    live = jax.jit(jax.value_and_grad(value(exact, sample(KEY))))(flat)
    of_recorded = jax.jit(jax.value_and_grad(loss))
    gradient = of_recorded(flat)[1]
    assert_close(of_recorded(flat), live, rtol=1e-9)
    assert_close(gradient, jax.jit(jax.grad(value(reverse, episode)))(flat), rtol=1e-9)

    direction = gradient / np.linalg.norm(gradient)
    kl = jax.jit(jax.value_and_grad(value(exact, episode, "kl")))
    assert kl(flat)[0] == pytest.approx(0, abs=1e-12)
    products = [
        jax.jit(lambda f, of=of: jax.jvp(jax.grad(of), (f,), (direction,))[1])(flat)
        for of in (value(exact, episode, "kl"), value(reverse, episode, "kl"))
    ]
    assert_close(products[0], products[1], rtol=1e-8)
    ahead, behind = (flat + sign * 1e-5 * direction for sign in (1, -1))
    numeric = (of_recorded(ahead)[0] - of_recorded(behind)[0]) / 2e-5
    assert numeric == pytest.approx(float(direction @ gradient), rel=1e-6)
    numeric = (kl(ahead)[1] - kl(behind)[1]) / 2e-5
    np.testing.assert_allclose(products[0], numeric, atol=1e-6 * np.abs(numeric).max())


def run(outer: Any) -> Any:
    step = TrainStep(sample, make_objective(steps=1), outer, record=True, learned=("init",))
    state = init_state(fresh_meta_params(), outer, KEY)
    return jax.jit(step)(state, jnp.arange(3))


def dense(objective: MetaObjective, meta_params: MetaParams, _: Any, key: Any) -> OuterResult:
    """An outer step that moves nothing: its state is the Fisher matrix and the gradient."""
    del key
    flat, unravel = ravel_pytree(meta_params.init)

    def kl_gradient(flat: Any) -> Any:
        at = meta_params._replace(init=unravel(flat))
        return ravel_pytree(objective.metric("kl").value_and_grad(at)[1].init)[0]

    (_, aux), grads = objective.value_and_grad(meta_params)
    state = jax.jacfwd(kl_gradient)(flat), ravel_pytree(grads.init)[0]
    return OuterResult(meta_params, state, aux, jnp.array(True))


def test_the_first_step_of_trpo_is_that_of_a_dense_solve() -> None:
    start, _ = ravel_pytree(fresh_meta_params().init)
    shapes = jnp.zeros((start.size, start.size)), jnp.zeros(start.size)
    damping = max_kl = 1e-3
    fisher, gradient = run(OuterStep(lambda _: shapes, dense))[0].outer_state
    matrix = fisher + damping * np.eye(start.size)
    direction = np.linalg.solve(matrix, gradient)
    length = np.sqrt(2 * max_kl / (direction @ matrix @ direction))
    state, metrics = run(trpo(max_kl=max_kl, cg_steps=60, damping=damping))
    ratio = 0.8 ** metrics["backtracks"]
    moved = ravel_pytree(state.meta_params.init)[0]
    np.testing.assert_allclose(fisher, fisher.T, atol=1e-9)
    np.testing.assert_allclose(moved, start - ratio * length * direction, rtol=0, atol=1e-6)
    assert metrics["accepted"] == 1
    assert 0 < metrics["kl"] <= max_kl
    assert metrics["gain"] > 0


def test_updates_on_the_same_rollouts_move_further_each() -> None:
    """Three updates of a meta-step, of a learned step size as well, are three on one batch."""
    chain = outer_chain({"init": optax.sgd(1e-3)})
    (once, _), (thrice, metrics) = (run(optax_outer(chain, n)) for n in (1, 3))
    start = ravel_pytree(fresh_meta_params().init)[0]
    moved = [np.linalg.norm(ravel_pytree(of.meta_params.init)[0] - start) for of in (once, thrice)]
    assert moved[1] == pytest.approx(3 * moved[0], rel=0.1)
    assert moved[1] != pytest.approx(3 * moved[0], rel=1e-9)
    assert metrics["kl"] == pytest.approx(0, abs=1e-9)  # where the update starts
