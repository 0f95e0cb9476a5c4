"""The four-layer convolutional network of few-shot image classification."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from maml_jax.models.convolution import Convolution, check_images, max_pool
from maml_jax.models.normalization import (
    Normalization,
    check_normalization,
    is_increasing,
    kind_of_layer,
)
from maml_jax.types import Array

HEAD_INITIALIZERS = {
    "normal_1": nn.initializers.normal(1.0),
    "xavier": nn.initializers.xavier_uniform(),
}


class Conv4(nn.Module):
    """Four blocks of 3×3 convolution, normalization and ReLU, then a linear head.

    Two forms are published. That for Omniglot has stride 2, 64 filters, the mean over space and a
    head drawn from N(0, 1); that for miniImageNet has 2×2 max-pooling, 32 filters, flattening and a
    Xavier head. Images of 28, 32 or 84 pixels shrink to 2, 2 or 6 pixels with strides, and to 1, 2
    or 5 with pooling.

    Attributes:
      ways: N, the number of classes.
      filters: number of filters in each convolution.
      max_pool: uses max-pooling and flattening instead of strides and the mean over space.
      normalization: a name in `maml_jax.models.normalization.NORMALIZATIONS`.
      head_init: a name in `HEAD_INITIALIZERS`; None uses the published one.
      convolution: a name in `maml_jax.models.convolution.CONVOLUTIONS`; None uses the default.
      block_patches: see `Convolution`; None uses the default of the backend.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from maml_jax.models.conv4 import Conv4
      >>> model, images = Conv4(ways=5, filters=8), jnp.zeros((10, 28, 28, 1))
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), images)[0].shape
      (10, 5)

    References:
      Vinyals et al., Matching Networks, NeurIPS 2016, arXiv:1606.04080; Finn, Abbeel, Levine,
      Model-Agnostic Meta-Learning, ICML 2017, arXiv:1703.03400.
    """

    ways: int
    filters: int = 64
    max_pool: bool = False
    normalization: str = "batch"
    head_init: str | None = None
    convolution: str | None = None
    block_patches: int | None = None

    @nn.compact
    def __call__(self, inputs: Array, num_reference: int = 0) -> Array:
        """Classifies images.

        Args:
          inputs: [S, H, W, C].
          num_reference: for normalization="support", the number of leading inputs that are support
            examples. They provide the statistics, and the result leaves them out.

        Returns:
          logits [S − num_reference, N].

        Raises:
          ValueError: the inputs are not images, or are too small for max-pooling: 16 pixels.
        """
        check_normalization(self.normalization, num_reference)
        check_images(inputs, poolings=4 * self.max_pool, fix=", or max_pool=False")
        hidden = inputs
        for block in range(4):
            kind = kind_of_layer(self.normalization, last=block == 3)
            # ReLU and an increasing normalization commute with the maximum.
            pool_first = self.max_pool and is_increasing(kind)
            hidden, moments = Convolution(
                self.filters,
                stride=1 if self.max_pool else 2,
                use_bias=self.normalization == "group",
                pool=pool_first,
                implementation=self.convolution,
                block_patches=self.block_patches,
                name=f"conv_{block}",
            )(hidden)
            normalize = Normalization(kind, name=f"norm_{block}")
            hidden = jax.nn.relu(normalize(hidden, moments, num_reference))
            if self.max_pool and not pool_first:
                hidden = max_pool(hidden)
        hidden = hidden[num_reference:]
        if self.max_pool:
            features = hidden.reshape(hidden.shape[0], -1)
        else:
            features = jnp.mean(hidden, axis=(1, 2))
        head_init = self.head_init or ("xavier" if self.max_pool else "normal_1")
        return nn.Dense(self.ways, kernel_init=HEAD_INITIALIZERS[head_init], name="head")(features)
