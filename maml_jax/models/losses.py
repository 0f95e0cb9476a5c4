"""The classification loss, and the reference examples of `support` normalization."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maml_jax.models.functional import Network, outputs_of
from maml_jax.types import Array, Episode, Examples, LossFn, Metrics, Params, WeightedExamples


def classification_logits(model: Network) -> Callable[[Params, Examples], Array]:
    """Returns a function (params, examples) -> logits [S, N], with one row for each target."""

    def logits_fn(params: Params, examples: Examples) -> Array:
        inputs, targets = examples.inputs, examples.targets
        num_reference = inputs.shape[0] - targets.shape[0]
        options = {"num_reference": num_reference} if num_reference else {}
        return outputs_of(model, params, inputs, **options)

    return logits_fn


def classification_loss(model: Network) -> LossFn:
    """Mean softmax cross-entropy of a network, with its accuracy.

    If there are more inputs than targets, the inputs begin with unlabelled reference examples, and
    the module receives their number as `num_reference` (see `with_reference`).

    Args:
      model: a flax module or `FunctionalModel` that maps inputs [S, ...] to logits [S, N].

    Returns:
      loss_fn(params, examples, key) -> (loss [], {"accuracy": []}); examples.targets are class
      indices [S], and the key is not used. Means over `WeightedExamples` use their weights. It
      raises a ValueError if they are known while tracing to be beyond the N outputs, as those of
      `maml_jax.tasks.episodes.make_sampler` are.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from maml_jax import Examples
      >>> from maml_jax.models.losses import classification_loss
      >>> from maml_jax.models.mlp import MLP
      >>> model, inputs = MLP(hidden=(), outputs=2), jnp.eye(2)
      >>> params = {"head": {"kernel": 9 * jnp.eye(2), "bias": jnp.zeros(2)}}
      >>> loss_fn = classification_loss(model)
      >>> loss_fn(params, Examples(inputs, jnp.array([0, 1])), jax.random.key(0))[1]["accuracy"]
      Array(1., dtype=float32)
    """
    logits_fn = classification_logits(model)

    def loss_fn(params: Params, examples: Examples, key: Array) -> tuple[Array, Metrics]:
        del key
        logits = logits_fn(params, examples)
        return classification_score(logits, examples.targets, _mean_of(examples))

    return loss_fn


def classification_score(
    logits: Array, targets: Array, mean: Callable[[Array], Array] = jnp.mean
) -> tuple[Array, Metrics]:
    """Softmax cross-entropy and accuracy of logits [S, N] for class indices [S], as `mean` says."""
    _check_targets(targets, logits.shape[-1])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    correct = jnp.argmax(logits, axis=-1) == targets
    return mean(losses), {"accuracy": mean(correct.astype(losses.dtype))}


def _mean_of(examples: Examples | WeightedExamples) -> Callable[[Array], Array]:
    if not isinstance(examples, WeightedExamples):
        return jnp.mean
    weights = examples.weights
    return lambda values: jnp.sum(weights * values) / jnp.sum(weights)


def _check_targets(targets: Array, outputs: int) -> None:
    if isinstance(targets, jax.core.Tracer) or not targets.size:
        return
    classes = int(np.asarray(targets).max()) + 1
    if classes > outputs:
        raise ValueError(
            f"an episode has {classes} classes, but the network has {outputs} "
            "outputs; use as many outputs as ways"
        )


def with_reference(episode: Episode) -> Episode:
    """Puts the support inputs before the query inputs, for normalization="support".

    Args:
      episode: support [S, *x], query [Q, *x].

    Returns:
      The episode with query inputs [S + Q, *x] and unchanged query targets [Q].
    """
    support, query = episode
    inputs = jnp.concatenate([support.inputs, query.inputs])
    return Episode(support, query._replace(inputs=inputs))
