"""The classification loss, and how `support` normalisation gets its reference examples."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import optax

from maml_jax.types import Array, Episode, Examples, LossFn, Metrics, Params


def classification_loss(model: nn.Module) -> LossFn:
    """Mean softmax cross-entropy of a flax module, with its accuracy.

    Inputs that outnumber the targets begin with unlabelled reference examples: the module gets
    their number as `num_reference` (see `with_reference`).

    Args:
      model: inputs [S, ...] -> logits [S, N].

    Returns:
      loss_fn(params, examples, key) -> (loss [], {"accuracy": []}); examples.targets are class
      indices [S]. The key is not used.

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

    def loss_fn(params: Params, examples: Examples, key: Array) -> tuple[Array, Metrics]:
        del key
        inputs, targets = examples
        num_reference = inputs.shape[0] - targets.shape[0]
        options = {"num_reference": num_reference} if num_reference else {}
        logits: Any = model.apply({"params": params}, inputs, **options)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        correct = jnp.argmax(logits, axis=-1) == targets
        return jnp.mean(losses), {"accuracy": jnp.mean(correct.astype(losses.dtype))}

    return loss_fn


def with_reference(episode: Episode) -> Episode:
    """Puts the support inputs before the query's, for normalization="support".

    Args:
      episode: support [S, *x], query [Q, *x].

    Returns:
      The episode with query inputs [S + Q, *x] and the query targets [Q] as they were.
    """
    support, query = episode
    return Episode(
        support, Examples(jnp.concatenate([support.inputs, query.inputs]), query.targets)
    )
