"""Normalisation inside an episode: stateless, and an explicit choice.

- `batch`: the batch's own statistics, in training and at test. Query examples are normalised
  together: results are transductive. A learned shift, no scale, as in MAML's code.
- `support`: query examples are normalised with the statistics of the support examples, so that no
  query example sees another one.
- `per_step`: `batch` with a shift and a scale of their own for every inner step (MAML++).
- `group`: groups of channels of each example alone, with shift and scale.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from maml_jax.types import Array, Params

# kind -> names of the parameters (scale, shift)
PARAMETER_NAMES: dict[str, tuple[str | None, str]] = {
    "batch": (None, "shift"),
    "support": (None, "shift"),
    "per_step": ("step_scale", "step_shift"),
    "group": ("scale", "shift"),
}
NORMALIZATIONS = tuple(PARAMETER_NAMES)
PER_STEP_NAMES = PARAMETER_NAMES["per_step"]


def is_increasing(kind: str) -> bool:
    """Whether y never falls as x grows: then max-pooling may come first, on a quarter of the work.

    A learned scale may turn negative.
    """
    return PARAMETER_NAMES[kind][0] is None


def check_normalization(kind: str, num_reference: int = 0) -> None:
    """Raises a ValueError for an unknown kind, or one that takes no reference examples."""
    if kind not in NORMALIZATIONS:
        raise ValueError(
            f"normalization={kind!r} is unknown; choose from {', '.join(NORMALIZATIONS)}"
        )
    if num_reference and kind != "support":
        raise ValueError(
            f"normalization={kind!r} takes no num_reference ({num_reference} given); "
            "use normalization='support'"
        )


class Moments(NamedTuple):
    """Mean and variance over space of each example and channel: all that normalisation needs."""

    mean: Array  # [S, C]
    variance: Array  # [S, C]


def moments_of_examples(inputs: Array) -> Moments:
    """Moments over the axes between the first and the last of inputs [S, ..., C]."""
    axes = tuple(range(1, inputs.ndim - 1))
    mean = jnp.mean(inputs, axes, keepdims=True)
    variance = jnp.mean((inputs - mean) ** 2, axes)
    return Moments(mean.reshape(variance.shape), variance)


def _pool_moments(moments: Moments, axis: int) -> Moments:
    """Moments of the union of equally large sets: σ² = mean σ_i² + mean (μ_i − μ)²."""
    mean = jnp.mean(moments.mean, axis, keepdims=True)
    spread = moments.variance + (moments.mean - mean) ** 2
    return Moments(mean, jnp.mean(spread, axis, keepdims=True))


def _pool_groups(moments: Moments, groups: int) -> Moments:
    """Moments [S, C] of the group of channels that each channel is in."""
    shape = moments.mean.shape
    grouped = jax.tree.map(lambda leaf: leaf.reshape(shape[0], groups, -1), moments)
    repeats = shape[1] // groups
    return jax.tree.map(
        lambda leaf: jnp.repeat(leaf[..., 0], repeats, axis=1), _pool_moments(grouped, 2)
    )


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
    def __call__(
        self, inputs: Array, moments: Moments | None = None, num_reference: int = 0
    ) -> Array:
        """Normalises inputs.

        Args:
          inputs: [S, ..., C].
          moments: [S, C] of each example, where they are known already; for max-pooled inputs those
            before pooling. None computes them from the inputs.
          num_reference: for `support`, how many leading rows give the statistics; 0 for all rows.

        Returns:
          [S, ..., C].

        Raises:
          ValueError: the kind is unknown, or num_reference is given to another kind.
        """
        check_normalization(self.kind, num_reference)
        channels = inputs.shape[-1]
        if moments is None:
            moments = moments_of_examples(inputs)
        if self.kind == "group":
            moments = _pool_groups(moments, math.gcd(self.groups, channels))
        else:
            reference = jax.tree.map(lambda leaf: leaf[: num_reference or None], moments)
            moments = _pool_moments(reference, 0)
        space = (1,) * (inputs.ndim - 2)
        mean, variance = (leaf.reshape(-1, *space, channels) for leaf in moments)
        outputs = (inputs - mean) * jax.lax.rsqrt(variance + self.epsilon)
        scale, shift = PARAMETER_NAMES[self.kind]
        if scale is not None:
            outputs = outputs * self.param(scale, nn.initializers.ones, (channels,))
        return outputs + self.param(shift, nn.initializers.zeros, (channels,))


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
