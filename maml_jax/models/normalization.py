"""Normalisation inside an episode: stateless, and an explicit choice.

- `batch`: the batch's own statistics, in training and at test. Query examples are normalised
  together: results are transductive. A learned shift, no scale, as in MAML's code.
- `support`: query examples are normalised with the statistics of the support examples, so that no
  query example sees another one.
- `per_step`: `batch` with a shift and a scale of their own for every inner step (MAML++).
- `group`: groups of channels of each example alone, with shift and scale.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from maml_jax.types import Array, Params

NORMALIZATIONS = ("batch", "support", "per_step", "group")
PER_STEP_NAMES = ("step_shift", "step_scale")


def _statistics(inputs: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    mean = jnp.mean(inputs, axes, keepdims=True)
    return mean, jnp.mean((inputs - mean) ** 2, axes, keepdims=True)


def _standardise(inputs: Array, mean: Array, variance: Array, epsilon: float) -> Array:
    return (inputs - mean) * jax.lax.rsqrt(variance + epsilon)


class Normalization(nn.Module):
    """One normalisation layer over the last axis; give it a name that starts with `norm`.

    y = (x − μ) / √(σ² + ε) · scale + shift

    Attributes:
      kind: a name in `NORMALIZATIONS`.
      groups: of channels, for `group`; reduced to a divisor of the number of channels.
      epsilon: ε.
    """

    kind: str = "batch"
    groups: int = 8
    epsilon: float = 1e-3

    @nn.compact
    def __call__(self, inputs: Array, num_reference: int = 0) -> Array:
        """Normalises inputs.

        Args:
          inputs: [S, ..., C].
          num_reference: for `support`, how many leading rows give the statistics; 0 for all rows.

        Returns:
          [S, ..., C].

        Raises:
          ValueError: the kind is unknown, or num_reference is given to another kind.
        """
        if self.kind not in NORMALIZATIONS:
            raise ValueError(
                f"normalization={self.kind!r} is unknown; choose from {', '.join(NORMALIZATIONS)}"
            )
        if num_reference and self.kind != "support":
            raise ValueError(
                f"normalization={self.kind!r} takes no num_reference ({num_reference} given); "
                "use normalization='support'"
            )
        channels = inputs.shape[-1]

        def parameter(name: str, init: nn.initializers.Initializer) -> Array:
            return self.param(name, init, (channels,))

        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        if self.kind == "group":
            grouped = inputs.reshape(*inputs.shape[:-1], math.gcd(self.groups, channels), -1)
            axes = (*range(1, inputs.ndim - 1), inputs.ndim)
            standard = _standardise(grouped, *_statistics(grouped, axes), self.epsilon)
            return standard.reshape(inputs.shape) * parameter("scale", ones) + parameter(
                "shift", zeros
            )
        reference = inputs[:num_reference] if num_reference else inputs
        moments = _statistics(reference, tuple(range(inputs.ndim - 1)))
        standard = _standardise(inputs, *moments, self.epsilon)
        if self.kind == "per_step":
            return standard * parameter("step_scale", ones) + parameter("step_shift", zeros)
        return standard + parameter("shift", zeros)


def _leaf_name(path: tuple[object, ...]) -> str:
    return jax.tree_util.keystr(path[-1:], simple=True)


def with_steps(params: Params, num_steps: int) -> Params:
    """Gives `per_step` parameters their axis of inner steps: [C] becomes K + 1 copies [K+1, C].

    Args:
      params: of a model with normalization="per_step".
      num_steps: K; row k serves the forward pass at θ_k, so the query loss after step K uses row K.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            jnp.repeat(leaf[None], num_steps + 1, axis=0)
            if _leaf_name(path) in PER_STEP_NAMES
            else leaf
        ),
        params,
    )


def at_step(params: Params, k: Array | int) -> Params:
    """Row k of every `per_step` parameter [K+1, C], the others as they are: what the model takes.

    Past the last row the last one serves: at test K may be larger than in training.

    Example:
      >>> import jax.numpy as jnp
      >>> from maml_jax.models.normalization import at_step, with_steps
      >>> params = with_steps({"norm_0": {"step_shift": jnp.ones(3)}}, num_steps=5)
      >>> params["norm_0"]["step_shift"].shape, at_step(params, 2)["norm_0"]["step_shift"].shape
      ((6, 3), (3,))
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            jax.lax.dynamic_index_in_dim(leaf, jnp.minimum(k, leaf.shape[0] - 1), keepdims=False)
            if _leaf_name(path) in PER_STEP_NAMES
            else leaf
        ),
        params,
    )


def norm_shifts_do_not_adapt(path: str) -> bool:
    """For `adapt`'s `adapts`: False for parameters of layers named norm*, as in MAML's protocol.

    Their shifts (and scales) are meta-learned but stay at θ in the inner loop.

    Example:
      >>> from maml_jax.models.normalization import norm_shifts_do_not_adapt
      >>> norm_shifts_do_not_adapt("norm_0/shift"), norm_shifts_do_not_adapt("conv_0/kernel")
      (False, True)
    """
    return not any(layer.startswith("norm") for layer in path.split("/")[:-1])
