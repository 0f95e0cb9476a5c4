"""ResNet-12, the larger network of few-shot image classification."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from maml_jax.models.convolution import Convolution, check_images, max_pool
from maml_jax.models.normalization import Normalization, check_normalization, kind_of_layer
from maml_jax.types import Array


class ResNet12(nn.Module):
    """Four residual blocks of three 3×3 convolutions, mean over space, a linear head.

    A block has three layers [convolution, normalization, leaky ReLU 0.1], a shortcut of a 1×1
    convolution and normalization that is added before the last activation, and 2×2 max-pooling.

    Attributes:
      ways: N, the number of classes.
      widths: number of filters of each of the four blocks.
      normalization: a name in `maml_jax.models.normalization.NORMALIZATIONS`.
      convolution: a name in `maml_jax.models.convolution.CONVOLUTIONS`; None uses the default.
      block_patches: see `Convolution`; None uses the default of the backend.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from maml_jax.models.resnet12 import ResNet12
      >>> model, images = ResNet12(ways=5, widths=(2, 2, 4, 4)), jnp.zeros((3, 32, 32, 3))
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), images)[0].shape
      (3, 5)

    References:
      Oreshkin, Rodríguez López, Lacoste, TADAM, NeurIPS 2018, arXiv:1805.10123.
    """

    ways: int
    widths: Sequence[int] = (64, 128, 256, 512)
    normalization: str = "batch"
    convolution: str | None = None
    block_patches: int | None = None

    @nn.compact
    def __call__(self, inputs: Array, num_reference: int = 0) -> Array:
        """Classifies images.

        Args:
          inputs: [S, H, W, C], of 16 pixels or more.
          num_reference: see `maml_jax.models.conv4.Conv4`.

        Returns:
          logits [S − num_reference, N].

        Raises:
          ValueError: the inputs are not images, or are smaller.
        """
        check_normalization(self.normalization, num_reference)
        check_images(inputs, poolings=len(self.widths))
        activation = partial(jax.nn.leaky_relu, negative_slope=0.1)

        def normalized(inputs: Array, filters: int, size: int, name: str) -> Array:
            outputs, moments = Convolution(
                filters,
                size=size,
                use_bias=self.normalization == "group",
                implementation=self.convolution,
                block_patches=self.block_patches,
                name=f"conv_{name}",
            )(inputs)
            last = name.startswith(str(len(self.widths) - 1))
            kind = kind_of_layer(self.normalization, last=last)
            normalize = Normalization(kind, name=f"norm_{name}")
            return normalize(outputs, moments, num_reference)

        hidden = inputs
        for block, width in enumerate(self.widths):
            shortcut = normalized(hidden, width, 1, f"{block}_shortcut")
            for layer in range(2):
                hidden = activation(normalized(hidden, width, 3, f"{block}_{layer}"))
            hidden = normalized(hidden, width, 3, f"{block}_2") + shortcut
            # The activation is increasing, so it may run after pooling, on a quarter of the pixels.
            hidden = activation(max_pool(hidden))
        features = jnp.mean(hidden[num_reference:], axis=(1, 2))
        return nn.Dense(self.ways, kernel_init=nn.initializers.xavier_uniform(), name="head")(
            features
        )
