"""Meta-batches of images whose meta-gradient the benchmarks time, and the products it needs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from maml_jax.types import Array, Episode, Examples

WAYS = 5


class Workload(NamedTuple):
    """A meta-batch: 5-way episodes, B tasks, K inner steps."""

    tasks: int
    steps: int
    shots: int
    query_shots: int
    size: int
    channels: int
    filters: int
    max_pool: bool
    step_size: float  # α on the mean cross-entropy


def flops(workload: Workload) -> float:
    """FLOPs of the matrix products that an exact meta-gradient needs.

    g of one loss's gradient is three products a layer (output, kernel and input gradient), without
    the input gradient of the first. An inner step is g and its derivative along a vector, 2 g.
    """
    size, channels, forward = workload.size, workload.channels, []
    for _ in range(4):
        outputs = size if workload.max_pool else -(-size // 2)
        forward.append(2 * outputs**2 * 9 * channels * workload.filters)
        size, channels = (size // 2 if workload.max_pool else outputs), workload.filters
    gradient = 3 * sum(forward) - forward[0]
    images = workload.shots * workload.steps * 3 + workload.query_shots
    return float(workload.tasks * WAYS * images * gradient)


def make_episodes(workload: Workload, key: Array) -> Episode:
    """Episodes [B] of noise around a mean image a class: arithmetic is what is timed."""

    def examples(key: Array, shots: int) -> Examples:
        shape = (workload.tasks, WAYS, shots, workload.size, workload.size, workload.channels)
        means = jax.random.uniform(mean_key, (*shape[:2], 1, *shape[3:]))
        images = (means + jax.random.uniform(key, shape)).reshape(shape[0], -1, *shape[3:])
        targets = jnp.tile(jnp.repeat(jnp.arange(WAYS), shots), (workload.tasks, 1))
        return Examples(images, targets)

    mean_key, support_key, query_key = jax.random.split(key, 3)
    return Episode(examples(support_key, workload.shots), examples(query_key, workload.query_shots))
