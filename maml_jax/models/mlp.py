"""Multi-layer perceptron."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from maml_jax.models.normalization import Normalization
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
      normalization: `none`, or a name in `NORMALIZATIONS`, before each ReLU. Omniglot's
        256-128-64-64 network has `batch`.
    """

    hidden: Sequence[int]
    outputs: int
    kernel_init: str = "he"
    normalization: str = "none"

    @nn.compact
    def __call__(self, inputs: Array, num_reference: int = 0) -> Array:
        """Maps inputs [S, *x], flattened, to outputs [S − num_reference, y]; see `Conv4`."""
        kernel_init = INITIALIZERS[self.kernel_init]
        hidden = inputs.reshape(inputs.shape[0], -1)
        for index, width in enumerate(self.hidden):
            hidden = nn.Dense(width, kernel_init=kernel_init, name=f"dense_{index}")(hidden)
            if self.normalization != "none":
                norm = Normalization(self.normalization, name=f"norm_{index}")
                hidden = norm(hidden, num_reference)
            hidden = jax.nn.relu(hidden)
        hidden = hidden[num_reference:]
        return nn.Dense(self.outputs, kernel_init=kernel_init, name="head")(hidden)
