"""Live rollouts against recorded ones; meta-gradients and Fisher products; the step of TRPO."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from maml_jax import MetaParams, TrainStep, init_state
from maml_jax.meta.outer import MetaObjective, OuterResult, OuterStep
from maml_jax.rl import trpo
from tests.inner.problems import assert_close, float64  # noqa: F401, a fixture
from tests.rl.problems import KEY, fresh_meta_params, make_objective, sample

pytestmark = pytest.mark.usefixtures("float64")
STEP = jnp.int32(0)


class Derivatives(NamedTuple):
    """Of the meta-objective of one task, with respect to the flat meta-parameters."""

    loss: Any
    gradient: Any
    reverse: Any  # the same gradient in reverse mode
    live: Any  # the same on live rollouts
    kl_gradient: Any
    product: Any  # of the Fisher matrix with a vector
    reverse_product: Any


def derivatives() -> Any:
    """(flat meta-parameters, recorded episode, vector) -> Derivatives."""
    unravel = ravel_pytree(fresh_meta_params())[1]
    exact, reverse = make_objective(), make_objective(meta_gradient="reverse")

    def value(objective: Any, episode: Any, metric: str | None = None) -> Any:
        def of(flat: Any) -> Any:
            loss, (metrics, _) = objective(unravel(flat), episode, KEY, STEP, ())
            return loss if metric is None else metrics[metric]

        return of

    def all_of(flat: Any, episode: Any, vector: Any) -> Derivatives:
        def kl(objective: Any) -> Any:
            return jax.jvp(jax.grad(value(objective, episode, "kl")), (flat,), (vector,))

        loss, gradient = jax.value_and_grad(value(exact, episode))(flat)
        live = jax.grad(value(exact, sample(KEY)))(flat)
        (kl_gradient, product), (_, reverse_product) = kl(exact), kl(reverse)
        of_reverse = jax.grad(value(reverse, episode))(flat)
        return Derivatives(loss, gradient, of_reverse, live, kl_gradient, product, reverse_product)

    return jax.jit(all_of)


def test_derivatives_on_recorded_rollouts() -> None:
    """Live = recorded, exact = reverse = finite differences, for gradients and Fisher products."""
    flat, at = ravel_pytree(fresh_meta_params())[0], derivatives()
    episode = jax.jit(make_objective().record)(fresh_meta_params(), sample(KEY), KEY, STEP)
    vector = np.random.default_rng(0).normal(size=flat.shape)
    here, ahead, behind = (at(flat + by * vector, episode, vector) for by in (0, 1e-5, -1e-5))
    assert_close(here.gradient, here.live, rtol=1e-9)
    assert_close(here.gradient, here.reverse, rtol=1e-9)
    assert_close(here.product, here.reverse_product, rtol=1e-8)
    assert_close(here.kl_gradient, 0 * flat)  # the policy is the one that acted
    numeric = jax.tree.map(lambda a, b: (a - b) / 2e-5, ahead, behind)
    assert numeric.loss == pytest.approx(float(vector @ here.gradient), rel=1e-6)
    scale = np.abs(here.product).max()
    np.testing.assert_allclose(here.product, numeric.kl_gradient, atol=1e-6 * scale)


@pytest.mark.slow
def test_the_first_step_of_trpo_is_that_of_a_dense_solve() -> None:
    damping = max_kl = 1e-3
    start, unravel = ravel_pytree(fresh_meta_params().init)
    natural = trpo(max_kl=max_kl, cg_steps=60, damping=damping)

    def with_dense(of: MetaObjective, meta_params: MetaParams, _: Any, key: Any) -> OuterResult:
        """The step, whose state are the Fisher matrix and the gradient."""

        def kl_gradient(flat: Any) -> Any:
            at = meta_params._replace(init=unravel(flat))
            return ravel_pytree(of.metric("kl").value_and_grad(at)[1].init)[0]

        gradient = ravel_pytree(of.value_and_grad(meta_params)[1].init)[0]
        result = natural.step(of, meta_params, natural.init(meta_params), key)
        return result._replace(outer_state=(jax.jacfwd(kl_gradient)(start), gradient))

    shapes = jnp.zeros((start.size, start.size)), jnp.zeros(start.size)
    outer = OuterStep(lambda meta_params: shapes, with_dense)
    step = TrainStep(sample, make_objective(steps=1), outer, record=True, learned=("init",))
    state, metrics = jax.jit(step)(init_state(fresh_meta_params(), outer, KEY), jnp.arange(2))

    fisher, gradient = state.outer_state
    matrix = fisher + damping * np.eye(start.size)
    direction = np.linalg.solve(matrix, gradient)
    length = np.sqrt(2 * max_kl / (direction @ matrix @ direction))
    moved = ravel_pytree(state.meta_params.init)[0]
    expected = start - 0.8 ** metrics["backtracks"] * length * direction
    np.testing.assert_allclose(fisher, fisher.T, atol=1e-9)
    np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-8)
    assert metrics["accepted"] == 1
    assert 0 < metrics["kl"] <= max_kl
    assert metrics["gain"] > 0
