"""Glyphs: enough distinct characters, none missing or blank, the same in every run."""

import itertools

import numpy as np
import pytest
from PIL import features

from maml_jax.tasks.images import glyphs

UPRIGHT = np.eye(2, 3)


@pytest.fixture(scope="module")
def faces():
    return glyphs.face_files()


@pytest.fixture(scope="module")
def chosen(faces):
    return glyphs.choose(glyphs.candidates(faces), faces)


def drawings(font, characters, image_size=glyphs.IMAGE_SIZE):
    images = [np.asarray(glyphs.draw(font, c, image_size, UPRIGHT)) for c in characters]
    return np.stack(images)


@pytest.mark.slow
def test_a_thousand_distinct_characters_in_all_faces(chosen, faces):
    assert len(faces) == 12
    assert len(set(chosen)) == len(chosen) == glyphs.CHARACTERS >= 1000
    for font in glyphs.load_fonts(faces[::4], glyphs.IMAGE_SIZE):
        images = drawings(font, chosen).reshape(len(chosen), -1)
        assert images.max(axis=1).min() > 100  # none is blank
        assert len(np.unique(images, axis=0)) == len(chosen)  # none looks like another
        missing = drawings(font, ["\u0378"]).reshape(1, -1)  # a code point of no character
        assert not (images == missing).all(axis=1).any()


def test_rendering_is_seeded_and_jittered(monkeypatch, faces):
    few = glyphs.candidates(faces)[:20]
    monkeypatch.setattr(glyphs, "candidates", lambda files: few)
    monkeypatch.setattr(glyphs, "CHARACTERS", 10)

    def first(number, **options):
        rendered = itertools.islice(glyphs.render_all(**options), number)
        names, images = zip(*rendered, strict=True)
        return names, np.stack(images)

    number = glyphs.IMAGES_PER_CHARACTER + 1
    names, images = first(number, seed=3)
    assert names == ("U+0021",) * glyphs.IMAGES_PER_CHARACTER + ("U+0022",)
    assert images.shape == (number, 28, 28)
    assert images.dtype == np.uint8
    assert len(np.unique(images, axis=0)) == number
    np.testing.assert_array_equal(images, first(number, seed=3)[1])
    assert (images != first(number, seed=4)[1]).any()
    assert first(2, image_size=20)[1].shape == (2, 20, 20)


def test_ink_is_bright_and_centered(faces):
    (font,) = glyphs.load_fonts(faces[:1], 28)
    image = np.asarray(glyphs.draw(font, "+", 28, UPRIGHT), np.float64)
    assert image[[0, -1]].max() == 0
    assert image.max() > 200
    middle = (image * np.arange(28)).sum() / image.sum()
    assert middle == pytest.approx(13.5, abs=0.5)


def test_a_shift_moves_the_ink_by_its_share_of_the_image(faces):
    (font,) = glyphs.load_fonts(faces[:1], 28)
    shifted = UPRIGHT + np.array([[0, 0, 3 / 28], [0, 0, 0]])
    still, moved = (np.asarray(glyphs.draw(font, "o", 28, t)) for t in (UPRIGHT, shifted))
    np.testing.assert_array_equal(np.roll(still, 3, axis=1), moved)


def test_the_fingerprint_names_what_draws():
    assert glyphs.fingerprint()["freetype"] == features.version("freetype2")
    assert len(glyphs.fingerprint()["faces"]) == 12
