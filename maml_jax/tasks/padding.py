"""Tasks of unequal sizes, padded to one size so that they can be batched."""

from collections.abc import Sequence
from typing import Any, cast

import jax
import numpy as np

from maml_jax.types import Array, Episode, Examples, WeightedExamples


def pad_episodes(episodes: Sequence[Episode]) -> Episode:
    """Stacks episodes with different numbers of examples, of a class or as a whole.

    What is missing is filled up with repetitions of the first example, of weight 0. A loss has to
    use the weights, as `maml_jax.models.losses.classification_loss` does. Normalization by the
    statistics of the batch counts the repetitions too: use `group` or none.

    Args:
      episodes: of inputs [S, *x] and targets [S, *y], where S may differ.

    Returns:
      An Episode of WeightedExamples: inputs [E, S, *x], targets [E, S, *y] and weights [E, S], with
      the largest S of the support and of the query examples.

    Example:
      >>> import numpy as np
      >>> from maml_jax import Episode, Examples
      >>> from maml_jax.tasks.padding import pad_episodes
      >>> some = [Examples(np.ones((size, 3)), np.zeros(size, int)) for size in (1, 2)]
      >>> pad_episodes([Episode(some[0], some[1]), Episode(some[1], some[1])]).support.weights
      Array([[1., 0.],
             [1., 1.]], dtype=float32)
    """
    support, query = (pad_examples(part) for part in zip(*episodes, strict=True))
    return Episode(cast(Examples, support), cast(Examples, query))


def pad_examples(tasks: Sequence[Examples]) -> WeightedExamples:
    """Stacks the examples of several tasks; see `pad_episodes`."""
    sizes = [len(task.targets) for task in tasks]

    def stack(*arrays: Any) -> Array:
        filled = [
            np.concatenate([array, np.repeat(array[:1], max(sizes) - len(array), axis=0)])
            for array in map(np.asarray, arrays)
        ]
        return jax.numpy.asarray(np.stack(filled))

    inputs, targets = (
        jax.tree.map(stack, *part)
        for part in zip(*((t.inputs, t.targets) for t in tasks), strict=True)
    )
    weights = np.arange(max(sizes)) < np.array(sizes)[:, None]
    return WeightedExamples(inputs, targets, jax.numpy.asarray(weights, jax.numpy.float32))
