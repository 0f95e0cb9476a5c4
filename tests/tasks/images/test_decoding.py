"""Decoding: every mode, depth, orientation and transparency, and files that cannot be decoded."""

import numpy as np
import pytest
from PIL import Image

from maml_jax.tasks.images import decoding
from maml_jax.tasks.images.decoding import Layout, as_image, flatten, to_pixels
from tests.tasks.images.problems import encoded

CHECKS = np.array([[0, 1], [1, 0]], np.uint8)
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
GRAY = Layout(16, 1, False)


def pixels(image, layout=GRAY):
    """What the pools get of a square image, without the axis of channels."""
    return to_pixels(image, layout._replace(image_size=image.size[0]))[..., 0]


@pytest.mark.parametrize(
    "value",
    [
        encoded(Image.fromarray(CHECKS * 255).convert("1")),  # 1-bit, as in Omniglot's files
        encoded(Image.fromarray(CHECKS)),
        encoded(Image.fromarray(CHECKS * 255)),
        encoded(Image.fromarray(np.stack([CHECKS * 255] * 3, -1))),
        CHECKS,  # what Pillow gives for a 1-bit file
        CHECKS * 255,  # what OpenCV and TensorFlow give
        np.stack([CHECKS] * 3, -1),
        CHECKS.astype(bool),
    ],
)
def test_one_bit_images_come_out_as_0_and_255_whatever_decoded_them(value):
    image = as_image(value, binary=True).convert("L")
    np.testing.assert_array_equal(np.asarray(image), CHECKS * 255)


def test_dark_gray_images_are_not_taken_for_one_bit():
    np.testing.assert_array_equal(np.asarray(as_image(encoded(Image.fromarray(CHECKS)))), CHECKS)


# Depth


def of_upper_byte(dtype, kind, byte_order="="):
    levels = (RAMP.astype(dtype) << 8) + np.array(255 - RAMP, dtype)
    return encoded(Image.fromarray(levels.astype(np.dtype(dtype).newbyteorder(byte_order))), kind)


def of_range(low, high, dtype=np.float32):
    """A TIFF file whose levels go from low to high in 256 equal steps."""
    return encoded(Image.fromarray((low + (high - low) * (RAMP / 255)).astype(dtype)), "TIFF")


def portable_gray_map():
    levels = RAMP.astype(np.uint16) * 256 + 7
    return b"P5 16 16 65535\n" + levels.astype(">u2").tobytes()


@pytest.mark.parametrize(
    "file",
    [
        of_upper_byte(np.uint16, "PNG"),
        of_upper_byte(np.uint16, "TIFF"),
        of_upper_byte(np.uint16, "TIFF", ">"),
        of_upper_byte(np.int32, "TIFF"),
        portable_gray_map(),
        of_range(0, 255, np.int32),
        of_range(-1000, 255 * 3 - 1000, np.int32),
        of_range(0, 255 * 2**20, np.int32),
        of_range(0, 1),
        of_range(0, 255),
        of_range(0, 65535),
        of_range(-3, 5),
        of_range(1e20, 9e20),
    ],
)
def test_deep_levels_are_scaled_not_clipped(file):
    image = as_image(file)
    assert image.mode == "L"
    difference = np.asarray(image).astype(int) - RAMP
    assert np.abs(difference).max() <= 1


def test_sixteen_bits_give_their_upper_byte():
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    upper = (every >> 8).astype(np.uint8)
    for levels in (every, every.astype(np.int32)):
        np.testing.assert_array_equal(np.asarray(as_image(levels)), upper)
    dark = b"P5 2 1 65535\n" + np.array([1, 255], ">u2").tobytes()
    assert np.asarray(as_image(dark)).max() == 0  # not taken for 8 bits


@pytest.mark.parametrize("level", [np.nan, np.inf])
def test_levels_that_are_not_finite_are_refused(level):
    file = encoded(Image.fromarray(np.array([[0, level]], np.float32)), "TIFF")
    with pytest.raises(ValueError, match=r"a\.tif is not a readable image .*not finite"):
        as_image(file, name="a.tif")


def test_a_constant_image_of_any_depth_is_constant():
    for level in (-3.0, 0.0, 1e30):
        assert np.ptp(np.asarray(flatten(Image.new("F", (2, 2), level)))) == 0


# Orientation


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, RAMP),
        (2, RAMP[:, ::-1]),
        (3, RAMP[::-1, ::-1]),
        (4, RAMP[::-1]),
        (5, RAMP.T),
        (6, np.rot90(RAMP, -1)),
        (7, RAMP[::-1, ::-1].T),
        (8, np.rot90(RAMP)),
    ],
)
def test_the_orientation_of_exif_is_applied_once(orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encoded(Image.fromarray(RAMP), "PNG", exif=exif)
    np.testing.assert_array_equal(pixels(as_image(file)), upright)


# Transparency


def transparent_levels(mode):
    """A ramp whose first row is transparent, and black below."""
    alpha = np.full((16, 16), 255, np.uint8)
    alpha[0] = 0
    image = Image.fromarray(RAMP)
    image.putalpha(Image.fromarray(alpha))
    return image.convert("RGBA").convert(mode)


def with_key(mode, key, dtype=np.uint8):
    """A PNG file in which one level is transparent."""
    levels = Image.fromarray(RAMP.astype(dtype) * (257 if dtype == np.uint16 else 1))
    return encoded(levels if dtype == np.uint16 else levels.convert(mode), "PNG", transparency=key)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "RGBa"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_alpha_channel_is_drawn_onto_white(mode, channels):
    seen = pixels(transparent_levels(mode), GRAY._replace(channels=channels))
    assert (seen[0] == 255).all()
    np.testing.assert_array_equal(seen[1:], RAMP[1:])  # opaque pixels keep their values


def test_half_transparent_pixels_are_mixed_with_white():
    assert pixels(Image.new("RGBA", (1, 1), (0, 0, 0, 51)))[0, 0] == 204


@pytest.mark.parametrize(
    "file",
    [
        with_key("L", 0),
        with_key("RGB", (0, 0, 0)),
        with_key("P", 0),
        with_key("P", bytes([0])),
        with_key("I;16", 0, np.uint16),
        encoded(Image.fromarray(RAMP), "GIF", transparency=0),
    ],
)
def test_a_transparent_colour_is_drawn_onto_white(file):
    expected = RAMP.copy()
    expected[0, 0] = 255
    np.testing.assert_array_equal(pixels(as_image(file)), expected)


def test_a_transparent_colour_of_sixteen_bits_is_refused():
    """Pillow compares it with the upper bytes, and would draw these pixels as they are."""
    image = Image.new("RGB", (1, 1))
    image.info["transparency"] = (0x1234, 0, 0)
    with pytest.raises(ValueError, match="transparent colour has 16 bits"):
        flatten(image)


# Modes and frames


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_colour_mode_has_its_brightness(mode, channels):
    for level in (0, 255):
        image = Image.new("RGB", (2, 2), (level,) * 3).convert(mode)
        seen = pixels(image, GRAY._replace(channels=channels)).astype(int)
        assert np.abs(seen - level).max() <= 2


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_an_animation_gives_its_first_frame(kind):
    first, second = (Image.new("RGB", (4, 4), (level,) * 3) for level in (40, 200))
    lossless = {"lossless": True} if kind == "WEBP" else {}
    file = encoded(first, kind, save_all=True, append_images=[second], **lossless)
    assert (pixels(as_image(file)) == 40).all()


# Files that are refused


def test_a_decompression_bomb_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)  # Pillow fails above twice as many
    with pytest.raises(ValueError, match=r"big\.png is not a readable image \(Image size \(4 pix"):
        as_image(encoded(Image.fromarray(CHECKS)), name="big.png")


@pytest.mark.parametrize("error", [SyntaxError("broken\nheader"), RuntimeError(), MemoryError()])
def test_whatever_a_plug_in_raises_names_the_file(error, monkeypatch):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(decoding.Image, "open", fail)
    with pytest.raises(ValueError, match=r"a\.png is not a readable image") as raised:
        as_image(b"", name="a.png")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "ICO", "JPEG", "PNG", "PPM", "TGA", "TIFF", "WEBP"])
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_decoded_or_named(kind):
    file, rng = encoded(Image.fromarray(RAMP), kind), np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(file[: rng.integers(1, len(file) + 1)])
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        try:
            assert as_image(bytes(damaged), name="x.img").mode in ("1", "L", "P", "RGB", "YCbCr")
        except ValueError as error:
            assert str(error).startswith("x.img is not a readable image (")  # noqa: PT017


def test_documents_are_no_images():
    assert not set(decoding.image_formats()) & {"EPS", "PDF", "HDF5"}
    with pytest.raises(ValueError, match="its format is unknown"):
        as_image(encoded(Image.fromarray(RAMP), "EPS"))
