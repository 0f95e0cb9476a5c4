"""Few-shot regression of sine waves (Finn et al. 2017, section 5.1).

y = A sin(x − φ), amplitude A ~ U[0.1, 5], phase φ ~ U[0, π], x ~ U[−5, 5].
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from maml_jax.types import Array, Episode, Examples

AMPLITUDE = (0.1, 5.0)
PHASE = (0.0, jnp.pi)
INPUT = (-5.0, 5.0)


class SineWave(NamedTuple):
    """The amplitude A and phase φ that define one task."""

    amplitude: Array  # []
    phase: Array  # []

    def __call__(self, inputs: Array) -> Array:
        """A sin(x − φ), elementwise."""
        return self.amplitude * jnp.sin(inputs - self.phase)


def sample_wave(key: Array) -> SineWave:
    """Draws a task from the published distribution."""
    amplitude_key, phase_key = jax.random.split(key)
    return SineWave(
        jax.random.uniform(amplitude_key, minval=AMPLITUDE[0], maxval=AMPLITUDE[1]),
        jax.random.uniform(phase_key, minval=PHASE[0], maxval=PHASE[1]),
    )


def examples(wave: SineWave, inputs: Array, *, oracle: bool = False) -> Examples:
    """Labels inputs [S, 1] with the wave; an oracle also receives A and φ, in inputs [S, 3]."""
    targets = wave(inputs)
    if oracle:
        known = jnp.broadcast_to(jnp.stack(wave), (inputs.shape[0], 2))
        inputs = jnp.concatenate([inputs, known], axis=1)
    return Examples(inputs, targets)


def sample_episode(
    key: Array, *, num_support: int = 10, num_query: int = 10, oracle: bool = False
) -> Episode:
    """Draws one wave, and S = num_support and Q = num_query points of it.

    Args:
      key: [], a typed PRNG key.
      num_support: points to adapt on.
      num_query: points to evaluate on.
      oracle: whether amplitude and phase are two more inputs, as for the oracle of the paper.

    Returns:
      An Episode of inputs [S, 1] (with an oracle [S, 3]) and targets [S, 1].

    Example:
      >>> import jax
      >>> from maml_jax.tasks import sinusoid
      >>> sinusoid.sample_episode(jax.random.key(0), num_support=5).support.inputs.shape
      (5, 1)
    """
    wave_key, support_key, query_key = jax.random.split(key, 3)
    wave = sample_wave(wave_key)

    def draw(key: Array, number: int) -> Examples:
        inputs = jax.random.uniform(key, (number, 1), minval=INPUT[0], maxval=INPUT[1])
        return examples(wave, inputs, oracle=oracle)

    episode = Episode(draw(support_key, num_support), draw(query_key, num_query))
    chex.assert_shape([episode.support.targets, episode.query.targets], (None, 1))
    return episode
