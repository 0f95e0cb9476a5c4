"""Multi-layer perceptron."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from maml_jax.types import Array

INITIALIZERS = {
    "he": nn.initializers.he_normal(),
    "truncated_normal_0.01": nn.initializers.truncated_normal(0.01, lower=-2.0, upper=2.0),
}


class MLP(nn.Module):
    """Dense layers with ReLU between them: 1-40-40-1 is the network of the sinusoid.

    Attributes:
      hidden: widths of the hidden layers.
      outputs: width of the last layer.
      kernel_init: a name in `INITIALIZERS`; MAML's code uses `truncated_normal_0.01`.
    """

    hidden: Sequence[int]
    outputs: int
    kernel_init: str = "he"

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Maps inputs [S, x] to outputs [S, y]."""
        kernel_init = INITIALIZERS[self.kernel_init]
        for index, width in enumerate(self.hidden):
            inputs = jax.nn.relu(
                nn.Dense(width, kernel_init=kernel_init, name=f"dense_{index}")(inputs)
            )
        return nn.Dense(self.outputs, kernel_init=kernel_init, name="head")(inputs)
