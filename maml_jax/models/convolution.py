"""Convolutions that stay fast when every task has its own kernel.

Under vmap over tasks, a convolution with per-task kernels becomes a grouped convolution, which is
slow on a CPU and in cuDNN's backward pass. Written as a product of patches and a matrix, it becomes
a batched matrix product, and so do all of its derivatives.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from maml_jax.models.normalization import Moments, moments_of_examples
from maml_jax.types import Array

T = TypeVar("T")


class ConvolveFn(Protocol):
    """A SAME convolution: (inputs [S, H, W, C], kernel [k, k, C, F], stride) -> [S, h, w, F]."""

    def __call__(self, inputs: Array, kernel: Array, stride: int, /) -> Array: ...


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Output size and number of zeros before the image, as TensorFlow and lax define SAME."""
    outputs = -(-size // stride)
    return outputs, max((outputs - 1) * stride + kernel - size, 0) // 2


def _taps(inputs: Array, kernel_size: tuple[int, int], stride: int) -> list[Array]:
    """The inputs [S, h, w, C] under each tap of the kernel, row by row.

    The padded image is first split into stride × stride phases, so that every tap is a contiguous
    slice of one phase. The transpose is one addition per tap and one concatenation of phases;
    that of strided slices would test every input pixel against every tap.
    """
    number, height, width, channels = inputs.shape
    rows, top = _same_padding(height, kernel_size[0], stride)
    columns, left = _same_padding(width, kernel_size[1], stride)
    phase_rows = rows + (kernel_size[0] - 1) // stride
    phase_columns = columns + (kernel_size[1] - 1) // stride
    bottom = phase_rows * stride - height - top
    right = phase_columns * stride - width - left
    padded = jax.lax.pad(
        inputs,
        jnp.zeros((), inputs.dtype),
        ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0)),
    )
    cells = padded.reshape(number, phase_rows, stride, phase_columns, stride, channels)
    ones = (1,) * stride
    phases = [
        [
            phase.reshape(number, phase_rows, phase_columns, channels)
            for phase in jax.lax.split(row, ones, axis=4)
        ]
        for row in jax.lax.split(cells, ones, axis=2)
    ]
    return [
        phases[y % stride][x % stride][:, y // stride :, x // stride :][:, :rows, :columns]
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
    patches = jnp.concatenate(_taps(inputs, (kernel.shape[0], kernel.shape[1]), stride), axis=-1)
    # XLA's CPU backend is slower when the patches keep their three leading axes.
    outputs = patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    return outputs.reshape(*patches.shape[:-1], -1)


def lax_convolution(inputs: Array, kernel: Array, stride: int = 1) -> Array:
    """SAME convolution by XLA's own operation; the arguments are those of `im2col`."""
    return jax.lax.conv_general_dilated(
        inputs, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


CONVOLUTIONS: dict[str, ConvolveFn] = {"im2col": im2col, "lax": lax_convolution}
DEFAULT_CONVOLUTION = "im2col"  # fastest as measured on a CPU
BACKEND_BLOCK_PATCHES = {"cpu": 2**18}  # 1 MB of float32, fastest with 512 KB of L2 cache
WORTH_BLOCKS = 4  # fewer blocks cost more than they save


def get_convolution(name: str | None = None) -> ConvolveFn:
    """Returns an entry of `CONVOLUTIONS`; None returns the default.

    Raises:
      ValueError: the name is unknown.
    """
    name = DEFAULT_CONVOLUTION if name is None else name
    if name not in CONVOLUTIONS:
        raise ValueError(f"convolution={name!r} is unknown; choose from {', '.join(CONVOLUTIONS)}")
    return CONVOLUTIONS[name]


def max_pool(inputs: Array) -> Array:
    """2×2 max-pooling with stride 2; an odd last row or column is dropped (VALID).

    The maximum is selected by comparison. `jnp.max` differentiates through x == max, and under jit
    max may be recomputed with different rounding, which makes its second derivatives wrong.

    Args:
      inputs: [S, H, W, C].

    Returns:
      [S, ⌊H/2⌋, ⌊W/2⌋, C]. At ties the gradient goes to the first element, by rows.
    """
    number, height, width, channels = inputs.shape
    rows, columns = height // 2, width // 2
    even = inputs[:, : rows * 2, : columns * 2]
    cells = even.reshape(number, rows, 2, columns, 2, channels)
    for axis in (2, 4):
        # A split transposes to one concatenation, and slices to conditionals for every pixel.
        first, second = jax.lax.split(cells, (1, 1), axis=axis)
        cells = jnp.where(first >= second, first, second)
    return cells.reshape(number, rows, columns, channels)


def check_images(inputs: Array, *, poolings: int, fix: str = "") -> None:
    """Checks that inputs are images [S, H, W, C] that so many 2×2 poolings leave something of.

    Raises:
      ValueError: they are not; `fix` completes what to use instead.
    """
    if inputs.ndim != 4:
        raise ValueError(f"inputs of shape {list(inputs.shape)} are not images; use [S, H, W, C]")
    height, width = inputs.shape[1:3]
    if min(height, width) < 2**poolings:
        raise ValueError(
            f"nothing is left of images of {height}x{width} pixels after {poolings} poolings; use "
            f"{2**poolings} pixels or more (data.image_size){fix}"
        )


def _largest_block(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`, and at least 1."""
    return max(
        size for size in range(1, number + 1) if number % size == 0 and size <= max(limit, 1)
    )


def _map_blocks(fn: Callable[[Array], T], inputs: Array, block: int) -> T:
    """Maps fn over blocks of examples; the backward pass recomputes what fn computes inside."""
    blocks = inputs.reshape(-1, block, *inputs.shape[1:])
    outputs = jax.lax.map(jax.checkpoint(fn, prevent_cse=False), blocks)
    joined: T = jax.tree.map(lambda leaf: leaf.reshape(inputs.shape[0], *leaf.shape[2:]), outputs)
    return joined


class Convolution(nn.Module):
    """A SAME convolution with Xavier-uniform kernel and zero bias, and its moments.

    Large inputs are processed in blocks of examples. Patches, outputs, moments and pooling of a
    block stay in cache, and patches are not stored for the backward pass.

    Attributes:
      filters: F, output channels.
      size: size of the kernel in both directions.
      stride: stride in both directions.
      use_bias: adds a bias, which batch statistics would cancel.
      pool: max-pools the outputs; the moments are those before pooling.
      implementation: a name in `CONVOLUTIONS`; None uses the default.
      block_patches: largest number of patch elements in a block, 0 for no blocks; None uses the
        default of the backend.
    """

    filters: int
    size: int = 3
    stride: int = 1
    use_bias: bool = False
    pool: bool = False
    implementation: str | None = None
    block_patches: int | None = None

    @nn.compact
    def __call__(self, inputs: Array) -> tuple[Array, Moments]:
        """Maps [S, H, W, C] to [S, h, w, F] and the moments [S, F] of each example."""
        number, height, width, channels = inputs.shape
        shape = (self.size, self.size, channels, self.filters)
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.filters,)) if self.use_bias else None
        convolve = get_convolution(self.implementation)

        def block(inputs: Array) -> tuple[Array, Moments]:
            outputs = convolve(inputs, kernel, self.stride)
            if bias is not None:
                outputs = outputs + bias
            return max_pool(outputs) if self.pool else outputs, moments_of_examples(outputs)

        limit = self.block_patches
        if limit is None:
            limit = BACKEND_BLOCK_PATCHES.get(jax.default_backend(), 0)
        patches = -(-height // self.stride) * -(-width // self.stride) * self.size**2 * channels
        if limit == 0 or number * patches <= WORTH_BLOCKS * limit:
            return block(inputs)
        return _map_blocks(block, inputs, _largest_block(number, limit // patches))
