"""The sinusoid of Finn et al. 2017."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maml_jax.tasks import sinusoid


@pytest.fixture(scope="module")
def waves():
    return jax.jit(jax.vmap(sinusoid.sample_wave))(jax.random.split(jax.random.key(0), 4000))


@pytest.mark.parametrize(("field", "low", "high"), [("amplitude", 0.1, 5.0), ("phase", 0.0, np.pi)])
def test_waves_follow_the_published_distribution(waves, field, low, high):
    values = np.asarray(getattr(waves, field))
    assert low <= values.min() < low + 0.01
    assert high - 0.01 < values.max() <= high
    np.testing.assert_allclose(values.mean(), (low + high) / 2, rtol=0.03)
    np.testing.assert_allclose(values.std(), (high - low) / np.sqrt(12), rtol=0.03)


def test_amplitude_and_phase_are_independent(waves):
    assert abs(np.corrcoef(waves.amplitude, waves.phase)[0, 1]) < 0.05


@pytest.mark.parametrize("oracle", [False, True])
def test_shapes(oracle):
    episode = sinusoid.sample_episode(jax.random.key(0), num_support=5, num_query=7, oracle=oracle)
    width = 3 if oracle else 1
    chex.assert_shape((episode.support.inputs, episode.query.inputs), [(5, width), (7, width)])
    chex.assert_shape((episode.support.targets, episode.query.targets), [(5, 1), (7, 1)])
    chex.assert_type(jax.tree.leaves(episode), jnp.float32)


def test_oracle_sees_amplitude_and_phase_of_the_same_task():
    """Support and query are one wave A sin(x − φ), at points that do not depend on oracle."""
    sample = partial(sinusoid.sample_episode, jax.random.key(3))
    plain, oracle = sample(), sample(oracle=True)
    for examples, known in zip(plain, oracle, strict=True):
        x, amplitude, phase = np.asarray(known.inputs).T
        np.testing.assert_array_equal(examples.inputs[:, 0], x)
        np.testing.assert_array_equal(examples.targets, known.targets)
        np.testing.assert_allclose(known.targets[:, 0], amplitude * np.sin(x - phase), rtol=1e-4)
    features = np.concatenate([oracle.support.inputs, oracle.query.inputs])[:, 1:]
    assert len(np.unique(features, axis=0)) == 1


def test_points_are_uniform_and_differ_between_support_and_query():
    keys = jax.random.split(jax.random.key(0), 500)
    episodes = jax.jit(jax.vmap(sinusoid.sample_episode))(keys)
    for inputs in (episodes.support.inputs, episodes.query.inputs):
        assert -5 <= inputs.min() < -4.95
        assert 4.95 < inputs.max() <= 5
        np.testing.assert_allclose(inputs.std(), 10 / np.sqrt(12), rtol=0.03)
    everything = np.concatenate([episodes.support.inputs, episodes.query.inputs]).ravel()
    assert len(np.unique(everything)) > 0.99 * everything.size


def test_the_key_determines_the_episode():
    sample = jax.jit(sinusoid.sample_episode)
    chex.assert_trees_all_equal(sample(jax.random.key(1)), sample(jax.random.key(1)))
    one, other = sample(jax.random.key(1)), sample(jax.random.key(2))
    assert not np.any(one.support.inputs == other.support.inputs)


@pytest.mark.parametrize("num_support", [1, 5, 20])
def test_the_task_does_not_depend_on_the_number_of_points(num_support):
    sample = partial(sinusoid.sample_episode, jax.random.key(6), oracle=True)
    wave = sample(num_support=num_support).query.inputs[0, 1:]
    np.testing.assert_array_equal(wave, sample(num_support=10).query.inputs[0, 1:])
