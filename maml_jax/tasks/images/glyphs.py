"""Characters as image classes, drawn from the fonts that matplotlib ships: nothing is downloaded.

A class is a Unicode character. Its images take the twelve full DejaVu faces in turn, and each
drawing is distorted by a random affine map of its own. Ink is 255.
"""

import math
import pathlib
import unicodedata
import zlib
from collections.abc import Iterator, Sequence

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageFont, features

IMAGE_SIZE = 28
CHARACTERS = 1000
IMAGES_PER_CHARACTER = 20
LENGTH = CHARACTERS * IMAGES_PER_CHARACTER

# Letters, digits, symbols and punctuation. Marks, modifiers and brackets are too small or alike.
_CATEGORIES = ("Lu", "Ll", "Lt", "Lo", "Nd", "No", "Sc", "Sm", "So", "Po")
_MOST_ALIKE = 0.95  # cosine similarity of two drawings above which one is left out
_EM = 0.85  # font size, in image sizes
_LARGEST = 0.8  # share of the image size to which larger drawings are shrunk
_OVERSAMPLING = 2
# Half-widths of the uniform distortions: radians, shear, log of the scale, shift in image sizes.
_ANGLE, _SHEAR, _LOG_SCALE, _SHIFT = math.radians(12), 0.2, 0.15, 0.08


def face_files() -> list[pathlib.Path]:
    """The full DejaVu faces, without the two Display faces, which have few characters."""
    folder = pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf")
    files = sorted(f for f in folder.glob("DejaVu*.ttf") if "Display" not in f.name)
    if not files:
        raise ValueError(f"matplotlib has no DejaVu fonts under {folder}; install it from PyPI")
    return files


def fingerprint() -> dict[str, object]:
    """What the images depend on, apart from size and seed."""
    return {
        "faces": {file.name: zlib.crc32(file.read_bytes()) for file in face_files()},
        "unicode": unicodedata.unidata_version,
        "freetype": features.version("freetype2"),
    }


def candidates(files: Sequence[pathlib.Path]) -> list[str]:
    """Lists the characters of suitable categories that every face has a glyph for.

    Compatibility variants (², Ⅷ) are left out, and accented characters come last.
    """
    common = set.intersection(*(set(FT2Font(str(file)).get_charmap()) for file in files))
    wanted = [
        c
        for c in map(chr, sorted(common))
        if unicodedata.category(c) in _CATEGORIES
        and not unicodedata.decomposition(c).startswith("<")
    ]
    return sorted(wanted, key=lambda c: bool(unicodedata.decomposition(c)))


def load_fonts(files: Sequence[pathlib.Path], image_size: int) -> list[ImageFont.FreeTypeFont]:
    """Loads the faces at the oversampled size.

    The layout is basic, because the other engine depends on installed libraries.
    """
    pixels = round(_EM * image_size * _OVERSAMPLING)
    return [ImageFont.truetype(str(f), pixels, layout_engine=ImageFont.Layout.BASIC) for f in files]


def draw(
    font: ImageFont.FreeTypeFont, character: str, image_size: int, transform: np.ndarray
) -> Image.Image:
    """Draws a gray image [size, size] with the character's box centered and then transformed.

    Args:
      font: from `load_fonts` for this size.
      character: a string of one character.
      image_size: height and width in pixels.
      transform: [2, 3], the map x ↦ A x + b in units of the image size, with its origin at the
        center.
    """
    mask = font.getmask(character, mode="L")
    width, height = mask.size
    size = image_size * _OVERSAMPLING
    if width == 0 or height == 0:
        return Image.new("L", (image_size, image_size))
    box = Image.frombytes("L", (width, height), bytes(mask))
    fit = min(1.0, _LARGEST * size / max(width, height))
    # Pillow maps output pixels to input pixels, so x ↦ fit·A x + b is inverted.
    inverse = np.linalg.inv(fit * transform[:, :2])
    center = np.array([width, height]) / 2
    offset = center - inverse @ (size / 2 + size * transform[:, 2])
    rows = np.column_stack([inverse, offset]).ravel()
    large = box.transform(
        (size, size), Image.Transform.AFFINE, tuple(rows), Image.Resampling.BILINEAR
    )
    return large.reduce(_OVERSAMPLING)


def choose(characters: Sequence[str], files: Sequence[pathlib.Path]) -> list[str]:
    """Chooses CHARACTERS characters that no face leaves blank and that differ from each other.

    A character too similar to one chosen before it is left out. Similarity is computed at
    IMAGE_SIZE, so that the classes do not depend on the size of the images.

    Raises:
      ValueError: fewer than CHARACTERS are left.
    """
    upright = np.eye(2, 3)
    alike = np.zeros((len(characters), len(characters)), np.float32)
    blank = np.zeros(len(characters), bool)
    for font in load_fonts(files, IMAGE_SIZE):
        images = [np.asarray(draw(font, c, IMAGE_SIZE, upright), np.float32) for c in characters]
        flat = np.stack(images).reshape(len(characters), -1)
        norms = np.linalg.norm(flat, axis=1, keepdims=True)
        blank |= norms[:, 0] == 0
        flat /= np.maximum(norms, 1)
        np.maximum(alike, flat @ flat.T, out=alike)
    chosen: list[int] = []
    for i in map(int, np.flatnonzero(~blank)):
        if not np.any(alike[i, chosen] > _MOST_ALIKE):
            chosen.append(i)
    if len(chosen) < CHARACTERS:
        raise ValueError(
            f"matplotlib's fonts have {len(chosen)} distinct characters, but {CHARACTERS} are "
            "needed; install matplotlib from PyPI"
        )
    return [characters[i] for i in chosen[:CHARACTERS]]


def _jitter(rng: np.random.Generator, number: int) -> np.ndarray:
    """Draws affine maps [number, 2, 3], which shear, rotate, scale and then shift."""
    angle, shear, log_scale, *shift = rng.uniform(-1, 1, (5, number))
    cos, sin = np.cos(_ANGLE * angle), np.sin(_ANGLE * angle)
    rotation = np.stack([cos, -sin, sin, cos], -1).reshape(number, 2, 2)
    shearing = np.broadcast_to(np.eye(2), (number, 2, 2)).copy()
    shearing[:, 0, 1] = _SHEAR * shear
    linear = np.exp(_LOG_SCALE * log_scale)[:, None, None] * (rotation @ shearing)
    return np.concatenate([linear, _SHIFT * np.stack(shift, -1)[..., None]], axis=-1)


def render_all(image_size: int = IMAGE_SIZE, seed: int = 0) -> Iterator[tuple[str, Image.Image]]:
    """Draws all LENGTH images, class by class.

    Args:
      image_size: height and width in pixels.
      seed: of the distortions; the characters are the same for every seed.

    Yields:
      The name of the class, such as "U+0041", and a gray image with ink 255.
    """
    files = face_files()
    fonts = load_fonts(files, image_size)
    rng = np.random.default_rng(seed)
    for character in choose(candidates(files), files):
        for i, transform in enumerate(_jitter(rng, IMAGES_PER_CHARACTER)):
            image = draw(fonts[i % len(fonts)], character, image_size, transform)
            yield f"U+{ord(character):04X}", image
