"""Samplers whose numbers do not come from their key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maml_jax import InnerLoop, evaluate
from maml_jax.meta.sampling import check_sampler
from tests.meta.problems import bowl, fresh_meta_params, make_step, run

RNG = np.random.default_rng(0)
POOL = jnp.arange(20.0).at[0].set(jnp.nan).reshape(10, 2)
BATCHES = iter(np.arange(1000.0).reshape(-1, 2))


def from_numpy(key):
    point = RNG.normal(size=2)
    return point, point


def noise_from_jax(key):
    """The task is from numpy; only the noise of its data is from the key."""
    point = jnp.asarray(RNG.normal(size=2)) + 0.1 * jax.random.normal(key, (2,))
    return point, point


def number_from_numpy(key):
    return (jax.random.normal(key, (2,)) + RNG.normal(),) * 2


def from_iterator(key):
    return (next(BATCHES),) * 2


def from_numpy_in_a_loop(key):
    points = jax.lax.map(lambda i: i + RNG.normal(size=2), jnp.arange(3))
    return points, points + jax.random.normal(key)


FROZEN = [from_numpy, noise_from_jax, number_from_numpy, from_iterator, from_numpy_in_a_loop]


@pytest.mark.parametrize("sample", [*FROZEN, jax.jit(from_numpy)])
def test_numbers_from_elsewhere_are_refused(sample):
    with pytest.raises(ValueError, match=r"do not come from its key.* jax\.random .* host"):
        check_sampler(sample, jax.random.key(0))


@jax.jit
def from_pool(key):
    return (POOL[jax.random.randint(key, (), 0, 10)],) * 2


def from_host(key):
    shape = jax.ShapeDtypeStruct((2,), jnp.float32)
    draw = lambda data: np.random.default_rng(data).normal(size=2).astype(np.float32)  # noqa: E731
    return (jax.pure_callback(draw, shape, jax.random.key_data(key)),) * 2


def made_by_the_loss(key):
    return (), ()


def with_own_objects(key):
    return (object(), jax.random.normal(key)), "goal"


@pytest.mark.parametrize(
    "sample", [from_pool, from_host, made_by_the_loss, with_own_objects, lambda key: (key, key)]
)
@pytest.mark.parametrize("key", [jax.random.key(0), jax.random.PRNGKey(0)])
def test_pure_functions_of_the_key_are_fine(sample, key):
    check_sampler(sample, key)


def test_a_single_task_is_pointed_out():
    with pytest.warns(UserWarning, match="does not depend on its key"):
        check_sampler(lambda key: (jnp.zeros(2), jnp.ones(2)), jax.random.key(0))


def test_training_and_evaluation_check_their_sampler():
    with pytest.raises(ValueError, match="do not come from its key"):
        run(make_step(sample=from_numpy))
    loop = InnerLoop(bowl, num_steps=1)
    with pytest.raises(ValueError, match="do not come from its key"):
        evaluate(loop, bowl, from_numpy, fresh_meta_params(), jax.random.key(0))
