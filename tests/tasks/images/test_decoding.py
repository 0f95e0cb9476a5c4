"""Decoding: 1-bit, gray and 16-bit images, whatever decoded them before."""

import numpy as np
import pytest
from PIL import Image

from maml_jax.tasks.images.decoding import as_image
from tests.tasks.images.problems import encoded

CHECKS = np.array([[0, 1], [1, 0]], np.uint8)


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


def test_sixteen_bits_are_scaled_not_clipped():
    deep = Image.fromarray(np.array([[0, 256 * 100], [256 * 200, 65535]], np.uint16))
    levels = np.asarray(as_image(encoded(deep)))
    np.testing.assert_array_equal(levels, [[0, 100], [200, 255]])
