"""3×3 convolutions that stay fast when every task has its own kernel.

Under vmap over tasks a convolution with per-task kernels becomes a grouped convolution, which is
slow on CPU and in cuDNN's backward pass. As patches times a matrix it becomes a batched matrix
product, and so do all of its derivatives.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from maml_jax.types import Array

ConvolveFn = Callable[[Array, Array, int], Array]  # inputs [S, H, W, C], kernel, stride -> outputs


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int, int]:
    """Output size and the zeros before and after, as TensorFlow and lax define SAME."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel - size, 0)
    return outputs, total // 2, total - total // 2


def _shifted(inputs: Array, kernel_size: tuple[int, int], stride: int) -> list[Array]:
    """The inputs [S, h, w, C] under each tap of the kernel, row by row.

    The padded image is cut into stride × stride phases first, so that every tap is a contiguous
    slice of one phase: the transpose is then one addition per tap, while that of a strided slice
    tests every input pixel against every tap.
    """
    number, height, width, channels = inputs.shape
    rows, top, _ = _same_padding(height, kernel_size[0], stride)
    columns, left, _ = _same_padding(width, kernel_size[1], stride)
    phase_rows = rows + (kernel_size[0] - 1) // stride
    phase_columns = columns + (kernel_size[1] - 1) // stride
    bottom = phase_rows * stride - height - top
    right = phase_columns * stride - width - left
    padded = jax.lax.pad(
        inputs,
        jnp.zeros((), inputs.dtype),
        ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0)),
    )
    phases = padded.reshape(number, phase_rows, stride, phase_columns, stride, channels)
    return [
        phases[:, y // stride :, y % stride, x // stride :, x % stride][:, :rows, :columns]
        for y in range(kernel_size[0])
        for x in range(kernel_size[1])
    ]


def im2col(inputs: Array, kernel: Array, stride: int = 1) -> Array:
    """SAME convolution as one matrix product of patches [S h w, 9 C] with the kernel [9 C, F].

    Args:
      inputs: [S, H, W, C].
      kernel: [3, 3, C, F], or any other size.
      stride: in both directions.

    Returns:
      [S, h, w, F] with h = ⌈H / stride⌉.

    Example:
      >>> import jax.numpy as jnp
      >>> from maml_jax.models.convolution import im2col
      >>> im2col(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1)), 2)[0, :, :, 0]
      Array([[9., 6.],
             [6., 4.]], dtype=float32)
    """
    patches = jnp.concatenate(_shifted(inputs, kernel.shape[:2], stride), axis=-1)
    return patches @ kernel.reshape(-1, kernel.shape[-1])


def lax_convolution(inputs: Array, kernel: Array, stride: int = 1) -> Array:
    """SAME convolution by XLA's own operation; arguments as `im2col`."""
    return jax.lax.conv_general_dilated(
        inputs, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


CONVOLUTIONS: dict[str, ConvolveFn] = {"im2col": im2col, "lax": lax_convolution}
BACKEND_DEFAULTS = {"cpu": "im2col", "gpu": "im2col", "tpu": "im2col"}


def get_convolution(name: str | None = None) -> ConvolveFn:
    """A row of `CONVOLUTIONS`; None takes what measured fastest on the current backend.

    Raises:
      ValueError: the name is unknown.
    """
    if name is None:
        name = BACKEND_DEFAULTS.get(jax.default_backend(), "im2col")
    if name not in CONVOLUTIONS:
        raise ValueError(f"convolution={name!r} is unknown; choose from {', '.join(CONVOLUTIONS)}")
    return CONVOLUTIONS[name]


class Convolution(nn.Module):
    """A SAME convolution with Xavier-uniform kernel and zero bias.

    Attributes:
      filters: F, output channels.
      size: of the kernel, in both directions.
      stride: in both directions.
      use_bias: a bias before batch statistics cancels in them: leave it out there.
      implementation: a name in `CONVOLUTIONS`; None takes the backend's default.
    """

    filters: int
    size: int = 3
    stride: int = 1
    use_bias: bool = False
    implementation: str | None = None

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Maps [S, H, W, C] to [S, h, w, F]."""
        shape = (self.size, self.size, inputs.shape[-1], self.filters)
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), shape)
        outputs = get_convolution(self.implementation)(inputs, kernel, self.stride)
        if not self.use_bias:
            return outputs
        return outputs + self.param("bias", nn.initializers.zeros, (self.filters,))


@partial(jax.named_call, name="max_pool")
def max_pool(inputs: Array) -> Array:
    """2×2 max-pooling with stride 2; an odd last row or column is dropped (VALID).

    The maximum is selected by comparisons of the four strided slices. A reduction by `jnp.max`
    differentiates through x == max, and under jit max is recomputed with other rounding: its
    second derivatives are wrong.

    Args:
      inputs: [S, H, W, C].

    Returns:
      [S, ⌊H/2⌋, ⌊W/2⌋, C]. At ties the gradient goes to the first of row-major order.
    """
    number, height, width, channels = inputs.shape
    even = inputs[:, : height // 2 * 2, : width // 2 * 2]
    cells = even.reshape(number, height // 2, 2, width // 2, 2, channels)

    def larger(a: Array, b: Array) -> Array:
        return jnp.where(a >= b, a, b)

    top = larger(cells[:, :, 0, :, 0], cells[:, :, 0, :, 1])
    bottom = larger(cells[:, :, 1, :, 0], cells[:, :, 1, :, 1])
    return larger(top, bottom)
