"""The quadratic, whose meta-gradient has a closed form."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maml_jax import MetaParams, sgd
from maml_jax.tasks import quadratic
from tests.inner.problems import META_GRADIENTS, adapt, assert_close, float64  # noqa: F401


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("meta_gradient", META_GRADIENTS)
@pytest.mark.parametrize("steps", [0, 4])
def test_quadratic_meets_its_closed_form(meta_gradient, steps):
    """With c_k = (1 − αh)^k (θ − c): ∂/∂θ is h c_K (1 − αh)^K, or h c_K to first order.

    ∂/∂α is −Σ h c_K · K h c_{K−1}, or −Σ_i h c_K Σ_k h c_k to first order.
    """
    curvature, start = jnp.array([0.3, 1.0, 2.5]), jnp.array([1.0, -2.0, 0.5])
    task, _ = quadratic.sample_episode(jax.random.key(0), curvature)
    alpha = jnp.asarray(0.2)

    def query_loss(meta):
        adaptation = adapt(
            quadratic.loss, sgd, meta, task, jax.random.key(0),
            num_steps=steps, meta_gradient=meta_gradient,
        )  # fmt: skip
        return quadratic.loss(adaptation.params, task, None)[0], adaptation.params

    meta = MetaParams(start, step_sizes=alpha)
    grads, params = jax.jit(jax.grad(query_loss, has_aux=True))(meta)
    assert_close(params, quadratic.adapted(start, task, alpha, steps))
    shrink = 1 - alpha * curvature
    offsets = [shrink**k * (start - task.center) for k in range(steps + 1)]
    slope = curvature * offsets[-1]
    if meta_gradient == "first_order":
        by_init = slope
        by_step_size = -jnp.sum(slope * curvature * sum(offsets[:-1], jnp.zeros(3)))
    else:
        by_init = quadratic.meta_gradient(start, task, alpha, steps)
        by_step_size = -jnp.sum(
            slope * steps * curvature * offsets[steps - 1] if steps else 0 * slope
        )
    assert_close((grads.init, grads.step_sizes), (by_init, by_step_size))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("steps", [0, 3])
def test_closed_form_is_the_derivative_of_its_own_loss(steps):
    curvature, start = jnp.array([0.5, 1.5]), jnp.array([2.0, -1.0])
    task, _ = quadratic.sample_episode(jax.random.key(4), curvature)

    def query_loss(params):
        return quadratic.loss(quadratic.adapted(params, task, 0.3, steps), task, None)[0]

    assert_close(quadratic.meta_gradient(start, task, 0.3, steps), jax.grad(query_loss)(start))


@pytest.mark.usefixtures("float64")
def test_expected_losses_are_the_mean_over_tasks():
    curvature, noise = jnp.array([0.3, 1.0, 1.9]), jnp.array([0.2, 1.0, 2.0])
    alpha, steps, number = jnp.array([0.7, 0.3, 0.1]), 4, 20_000

    def losses(key):
        support, query = quadratic.sample_episode(key, curvature, noise)
        adapted = quadratic.adapted(jnp.zeros(3), support, alpha, steps)
        return 0.5 * curvature * (adapted - query.center) ** 2

    drawn = jax.vmap(losses)(jax.random.split(jax.random.key(2), number))
    error = drawn.std(0) / np.sqrt(number)
    expected = quadratic.expected_losses(curvature, noise, alpha, jnp.asarray(steps))
    assert np.all(np.abs(drawn.mean(0) - expected) < 4 * error)
    assert np.all(error < 0.02 * expected)


def test_episodes_are_keyed_standard_normal_centers():
    curvature = jnp.array([1.0, 2.0, 3.0])
    keys = jax.random.split(jax.random.key(0), 2000)
    sample = jax.jit(jax.vmap(lambda key: quadratic.sample_episode(key, curvature)))
    support, query = sample(keys)
    chex.assert_trees_all_close(support, query, rtol=1e-6)  # XLA may compute the center twice
    chex.assert_trees_all_equal((support, query), sample(keys))
    chex.assert_shape(support.center, (2000, 3))
    assert abs(float(support.center.mean())) < 0.05
    assert abs(float(support.center.std()) - 1) < 0.05
    np.testing.assert_array_equal(support.curvature, np.tile(curvature, (2000, 1)))
