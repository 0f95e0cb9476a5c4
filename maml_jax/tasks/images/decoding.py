"""Decoding: from what a data set stores to uint8 pixels of one size and number of channels."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from maml_jax.errors import first_line

RESAMPLING = "lanczos"  # Pillow's filter for images of another size
# Formats of documents, films and arrays: Pillow leaves them to other programs, or cannot decode
# them at all.
_NOT_IMAGES = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF")
_RANGES = {"I": (255, 65535), "F": (1, 255, 65535)}  # mode -> from 0 to these
_DIRECT = ("1", "L", "P", "RGB", "YCbCr")  # modes that Pillow converts to gray or RGB in one step


class Layout(NamedTuple):
    """The form of processed images."""

    image_size: int  # H = W, pixels
    channels: int  # 1 gray, 3 RGB
    invert: bool  # 255 - pixel


def image_formats() -> list[str]:
    """Pillow's names of the formats of images, those of registered plug-ins included."""
    Image.init()
    return [name for name in Image.ID if name not in _NOT_IMAGES]


def as_image(
    value: bytes | np.ndarray, *, binary: bool = False, name: str = "an encoded file"
) -> Image.Image:
    """Makes an 8-bit or 1-bit image of an encoded file or an array [H, W] or [H, W, C].

    Args:
      value: the file or array; see `flatten`. Of an animation the first frame is taken.
      binary: whether the image has two levels. Some decoders return one-bit files as {0, 1},
        others as {0, 255}; {0, 1} is then scaled to {0, 255}.
      name: what messages call the file.

    Raises:
      ValueError: the file cannot be read as an image.
    """
    if isinstance(value, bytes):
        image = _decode(value, name)
    else:
        array = value * np.uint8(255) if value.dtype == np.bool_ else value
        array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
        image = flatten(Image.fromarray(array))
    if binary and image.mode != "1":
        levels = np.asarray(image.convert("L"))
        return Image.fromarray(levels * np.uint8(255) if levels.max(initial=0) <= 1 else levels)
    return image


def _decode(file: bytes, name: str) -> Image.Image:
    try:
        return flatten(Image.open(io.BytesIO(file), formats=image_formats()))
    except Exception as error:  # Every plug-in of Pillow raises errors of its own.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "its format is unknown" if unknown else first_line(error)
        raise ValueError(
            f"{name} is not a readable image ({reason}); repair or remove it"
        ) from error


def flatten(image: Image.Image) -> Image.Image:
    """Makes an image upright, opaque and of 8 bits or 1 bit.

    The orientation that EXIF data give is applied. What is transparent becomes white. Deeper levels
    are scaled to 0 to 255: 16 bits as a whole, integers and floats from the smallest range of 0
    to 1 (floats), 0 to 255 and 0 to 65,535 that has all of the image's levels, or else from the
    image's own range.

    Raises:
      ValueError: the levels are not finite, or Pillow cannot convert the image.
    """
    kind = image.format
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        # Pillow may call 16 bits "I" in these formats; it has scaled the levels of PGM to them.
        mode = "I;16" if kind in ("PNG", "PPM") else image.mode
        return _scale(image, _RANGES.get(mode, (65535,)))
    transparent = image.info.get("transparency")
    if isinstance(transparent, tuple) and max(transparent) > 255:
        raise ValueError("its transparent colour has 16 bits, which Pillow compares with 8")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image if image.mode in _DIRECT else image.convert("RGB")


def _scale(image: Image.Image, ranges: Sequence[int]) -> Image.Image:
    """Scales a deep gray image to 8 bits from the first range that has all of its levels."""
    levels = np.asarray(image, np.float64)
    low, high = levels.min(initial=np.inf), levels.max(initial=-np.inf)
    if not np.isfinite([low, high]).all():
        raise ValueError("it has levels that are not finite")
    fitting = [limit for limit in ranges if low >= 0 and high <= limit]
    low, width = (0, fitting[0]) if fitting else (low, (high - low) or 1)
    # Rounding down gives the upper byte of 16 bits, and integers of 8 bits as they are.
    scaled = np.minimum((levels - low) * (256 / width), 255).astype(np.uint8)
    transparent = image.info.get("transparency")
    if transparent is not None:
        scaled[levels == transparent] = 255
    return Image.fromarray(scaled)


def to_pixels(image: Image.Image, layout: Layout) -> np.ndarray:
    """Processes an image to uint8 [H, W, C].

    Images that are not square are squeezed, as in miniImageNet.
    """
    # Converting comes first: Pillow resizes 1-bit and palette images by nearest neighbour only.
    image = flatten(image).convert("L" if layout.channels == 1 else "RGB")
    size = (layout.image_size, layout.image_size)
    if image.size != size:
        image = image.resize(size, Image.Resampling[RESAMPLING.upper()])
    pixels = np.asarray(image, np.uint8).reshape(*size, layout.channels)
    return 255 - pixels if layout.invert else pixels
