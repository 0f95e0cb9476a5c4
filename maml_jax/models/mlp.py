"""The multi-layer perceptron."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from maml_jax.models.normalization import Normalization, check_normalization, kind_of_layer
from maml_jax.types import Array

INITIALIZERS = {
    "he": nn.initializers.he_normal(),
    "truncated_normal_0.01": nn.initializers.truncated_normal(0.01, lower=-2.0, upper=2.0),
    "xavier": nn.initializers.xavier_uniform(),
}


class MLP(nn.Module):
    """Dense layers with ReLU between them.

    The sinusoid's network is MLP((40, 40), 1); MAML's fully connected network for Omniglot is
    MLP((256, 128, 64, 64), ways, "truncated_normal_0.01", "batch", flatten=True).

    Attributes:
      hidden: widths of the hidden layers.
      outputs: width of the last layer.
      kernel_init: a name in `INITIALIZERS`; MAML's code uses `truncated_normal_0.01`.
      normalization: a name in `maml_jax.models.normalization.NORMALIZATIONS`, applied between each
        hidden layer and its ReLU; these layers then have no bias. None does not normalize.
      flatten: accepts inputs [S, ...] of any shape, such as images, and flattens them.
    """

    hidden: Sequence[int]
    outputs: int
    kernel_init: str = "he"
    normalization: str | None = None
    flatten: bool = False

    @nn.compact
    def __call__(self, inputs: Array, num_reference: int = 0) -> Array:
        """Maps inputs [S, x] to outputs [S, y].

        Args:
          inputs: [S, x]; with `flatten` [S, ...].
          num_reference: for normalization="support", see `maml_jax.models.conv4.Conv4`.
        """
        check_normalization(self.normalization or "batch", num_reference)
        kernel_init = INITIALIZERS[self.kernel_init]
        hidden = inputs.reshape(inputs.shape[0], -1) if self.flatten else inputs
        for index, width in enumerate(self.hidden):
            use_bias = self.normalization is None
            hidden = nn.Dense(
                width, kernel_init=kernel_init, use_bias=use_bias, name=f"dense_{index}"
            )(hidden)
            if self.normalization is not None:
                last = index == len(self.hidden) - 1
                kind = kind_of_layer(self.normalization, last=last)
                normalize = Normalization(kind, name=f"norm_{index}")
                hidden = normalize(hidden, num_reference=num_reference)
            hidden = jax.nn.relu(hidden)
        hidden = hidden[num_reference:] if num_reference else hidden
        return nn.Dense(self.outputs, kernel_init=kernel_init, name="head")(hidden)
