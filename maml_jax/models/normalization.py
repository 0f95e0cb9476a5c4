"""Normalization inside an episode, without running statistics.

- `batch`: uses the statistics of the batch, in training and at test. Query examples are normalized
  together, so results are transductive. There is a learned shift but no scale, as in MAML's code.
- `support`: normalizes query examples with the statistics of the support examples, so that query
  examples do not influence each other.
- `per_step`: is `batch` with a separate shift and scale for every inner step (MAML++).
- `per_step_last`: is `per_step` in the last layer (of ResNet-12, in the last block) and `batch`
  below, so that a compiled schedule computes the features of resting layers once.
- `group`: normalizes groups of channels of each example on its own, with a shift and a scale.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from maml_jax.types import Array, Params


class ParameterNames(NamedTuple):
    """Names of the parameters of one kind of normalization."""

    scale: str | None
    shift: str


PARAMETER_NAMES = {
    "batch": ParameterNames(None, "shift"),
    "support": ParameterNames(None, "shift"),
    "per_step": ParameterNames("step_scale", "step_shift"),
    "group": ParameterNames("scale", "shift"),
}
NORMALIZATIONS = (*PARAMETER_NAMES, "per_step_last")  # of networks
PER_STEP_NAMES = PARAMETER_NAMES["per_step"]


def kind_of_layer(normalization: str, *, last: bool) -> str:
    """The kind of one layer of a network.

    Args:
      normalization: of the network, a name in `NORMALIZATIONS`.
      last: whether the layer is in the last block.
    """
    if normalization != "per_step_last":
        return normalization
    return "per_step" if last else "batch"


def is_increasing(kind: str) -> bool:
    """Whether the output never decreases in the input; a learned scale may become negative.

    If so, max-pooling may come first, which saves three quarters of the work.
    """
    return PARAMETER_NAMES[kind].scale is None


def check_normalization(kind: str, num_reference: int = 0) -> None:
    """Checks the kind, and whether it takes reference examples.

    Raises:
      ValueError: the kind is unknown, or num_reference is given to a kind other than `support`.
    """
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
    """Mean and variance over space of each example and channel, all that normalization needs."""

    mean: Array  # [S, C]
    variance: Array  # [S, C]


def moments_of_examples(inputs: Array) -> Moments:
    """Moments of inputs [S, ..., C] over all axes but the first and the last."""
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
    pooled: Moments = jax.tree.map(
        lambda leaf: jnp.repeat(leaf[..., 0], repeats, axis=1), _pool_moments(grouped, 2)
    )
    return pooled


class Normalization(nn.Module):
    """A normalization layer over the last axis; give it a name that starts with `norm`.

    y = (x − μ) / √(σ² + ε) · scale + shift

    Attributes:
      kind: a name in `PARAMETER_NAMES`; see `kind_of_layer`.
      groups: number of groups for `group`, reduced to a divisor of the number of channels.
      epsilon: ε.
    """

    kind: str = "batch"
    groups: int = 8
    epsilon: float = 1e-3

    @nn.compact
    def __call__(
        self, inputs: Array, moments: Moments | None = None, num_reference: int = 0
    ) -> Array:
        """Normalizes inputs.

        Args:
          inputs: [S, ..., C].
          moments: [S, C] of each example if they are already known, before any max-pooling. None
            computes them from the inputs.
          num_reference: for `support`, the number of leading inputs that provide the statistics; 0
            uses all inputs.

        Returns:
          [S, ..., C].

        Raises:
          ValueError: the kind is unknown, or num_reference is given to another kind.
        """
        check_normalization(self.kind, num_reference)
        if self.kind not in PARAMETER_NAMES:
            raise ValueError(
                f"kind={self.kind!r} is no kind of one layer; use kind_of_layer({self.kind!r}, "
                "last=...)"
            )
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
    """Copies every `per_step` parameter [C] for all inner steps: [K+1, C].

    Args:
      params: parameters of a model with normalization="per_step" or "per_step_last".
      num_steps: K; row k is used at θ_k, so that the query loss after the last step uses row K.
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
    """Selects row k of every `per_step` parameter [K+1, C]; the model takes the result.

    The last row is used for all later steps, as K may be larger at test than in training.

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
    """For `InnerLoop.adapts`: freezes the parameters of layers named norm*, as MAML does.

    Their shifts and scales are meta-learned but not adapted in the inner loop.

    Example:
      >>> from maml_jax.models.normalization import norm_shifts_do_not_adapt
      >>> norm_shifts_do_not_adapt("norm_0/shift"), norm_shifts_do_not_adapt("conv_0/kernel")
      (False, True)
    """
    return not any(layer.startswith("norm") for layer in path.split("/")[:-1])
