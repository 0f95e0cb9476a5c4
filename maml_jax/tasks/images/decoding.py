"""Decoding: from what a data set stores to uint8 pixels of one size and number of channels."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

RESAMPLING = "lanczos"  # Pillow's filter for images of another size


class Layout(NamedTuple):
    """The form of processed images."""

    image_size: int  # H = W, pixels
    channels: int  # 1 gray, 3 RGB
    invert: bool  # 255 - pixel


def as_image(value: bytes | np.ndarray, *, binary: bool = False) -> Image.Image:
    """Makes an 8-bit or 1-bit image of an encoded file or an array [H, W] or [H, W, C].

    Args:
      value: the file or array; 16-bit levels are scaled to 8 bits.
      binary: whether the image has two levels. Some decoders return one-bit files as {0, 1},
        others as {0, 255}; {0, 1} is then scaled to {0, 255}.
    """
    if isinstance(value, bytes):
        image: Image.Image = Image.open(io.BytesIO(value))
    else:
        array = value * np.uint8(255) if value.dtype == np.bool_ else value
        image = Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)
    if image.mode.startswith("I;16"):  # Pillow would clip 16 bits to 255 instead of scaling them.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if binary and image.mode != "1":
        levels = np.asarray(image.convert("L"))
        return Image.fromarray(levels * np.uint8(255) if levels.max(initial=0) <= 1 else levels)
    return image


def to_pixels(image: Image.Image, layout: Layout) -> np.ndarray:
    """Processes an image to uint8 [H, W, C].

    Images that are not square are squeezed, as in miniImageNet.
    """
    # Converting comes first: Pillow resizes 1-bit and palette images by nearest neighbour only.
    image = image.convert("L" if layout.channels == 1 else "RGB")
    size = (layout.image_size, layout.image_size)
    if image.size != size:
        image = image.resize(size, Image.Resampling[RESAMPLING.upper()])
    pixels = np.asarray(image, np.uint8).reshape(*size, layout.channels)
    return 255 - pixels if layout.invert else pixels
