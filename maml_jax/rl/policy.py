"""Policies: a network from observations to a distribution over actions."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from maml_jax.models.functional import Network, initial_params, outputs_of
from maml_jax.types import Array, Params

LOG_STD = "log_std"  # the parameter beside those of the network


class Gaussian(NamedTuple):
    """Independent normal distributions of the entries of an action."""

    mean: Array  # [..., a]
    log_std: Array  # [..., a]

    def sample(self, key: Array) -> Array:
        """Actions [..., a]."""
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape)

    def log_prob(self, actions: Array) -> Array:
        """Logarithms [...] of the density at actions [..., a]."""
        z = (actions - self.mean) * jnp.exp(-self.log_std)
        return -jnp.sum(0.5 * z**2 + self.log_std + 0.5 * math.log(2 * math.pi), -1)

    def kl(self, new: "Gaussian") -> Array:
        """KL(self ‖ new) [...]."""
        spread = jnp.exp(2 * self.log_std) + (self.mean - new.mean) ** 2
        difference = new.log_std - self.log_std
        return jnp.sum(difference + 0.5 * spread * jnp.exp(-2 * new.log_std) - 0.5, -1)

    def entropy(self) -> Array:
        """Entropies [...] in nats."""
        return jnp.sum(self.log_std + 0.5 * math.log(2 * math.pi * math.e), -1)


class Categorical(NamedTuple):
    """A distribution over a number of actions."""

    logits: Array  # [..., a]

    def sample(self, key: Array) -> Array:
        """Indices [...] of actions."""
        return jax.random.categorical(key, self.logits)

    def log_prob(self, actions: Array) -> Array:
        """Logarithms [...] of the probabilities of actions [...]."""
        of_all = jax.nn.log_softmax(self.logits)
        return jnp.take_along_axis(of_all, actions[..., None], -1)[..., 0]

    def kl(self, new: "Categorical") -> Array:
        """KL(self ‖ new) [...]."""
        before, after = jax.nn.log_softmax(self.logits), jax.nn.log_softmax(new.logits)
        return jnp.sum(jnp.exp(before) * (before - after), -1)

    def entropy(self) -> Array:
        """Entropies [...] in nats."""
        of_all = jax.nn.log_softmax(self.logits)
        return -jnp.sum(jnp.exp(of_all) * of_all, -1)


Distribution = Gaussian | Categorical


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """The actions' distribution: Gaussian with a learned log σ, or over discrete actions.

    Its parameters are those of the network and, for a Gaussian, `log_std` [a], which does not
    depend on the observation.

    Attributes:
      network: maps observations [S, o] to means, or logits, [S, a].
      discrete: whether the actions are discrete.
      initial_log_std: the first log σ.
      min_log_std: the floor of log σ, from which on it has no gradient.
    """

    network: Network
    discrete: bool = False
    initial_log_std: float = 0.0
    min_log_std: float = math.log(1e-6)

    def init(self, key: Array, observation: Array) -> Params:
        """The first parameters.

        Raises:
          TypeError: those of the network are no dict.
        """
        params = initial_params(self.network, key, observation[None])
        if not isinstance(params, Mapping):
            raise TypeError(f"the policy's network has parameters {params!r:.60}; give a dict")
        if self.discrete:
            return params
        outputs = jax.eval_shape(self._outputs, params, observation)
        log_std = jnp.full(outputs.shape, self.initial_log_std, outputs.dtype)
        return {**params, LOG_STD: log_std}

    def _outputs(self, params: Any, observations: Array) -> Array:
        """[..., a]."""
        network = {name: leaf for name, leaf in params.items() if name != LOG_STD}
        flat = observations.reshape(-1, observations.shape[-1])
        outputs = outputs_of(self.network, network, flat)
        return outputs.reshape(*observations.shape[:-1], -1)

    def __call__(self, params: Params, observations: Array) -> Distribution:
        """The distributions of the actions after observations [..., o]."""
        outputs = self._outputs(params, observations)
        if self.discrete:
            return Categorical(outputs)
        log_std = jnp.maximum(cast(Any, params)[LOG_STD], self.min_log_std)
        return Gaussian(outputs, jnp.broadcast_to(log_std, outputs.shape))
