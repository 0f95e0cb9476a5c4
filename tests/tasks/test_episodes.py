"""Episodes: what is drawn, and how it is laid out."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maml_jax.tasks import episodes
from maml_jax.tasks.episodes import Pool
from tests.tasks.problems import CLASSES, IMAGES, SHAPE, SIZE, UNDRAWABLE, make_pool


def draw(number, counts, **options):
    keys = jax.random.split(jax.random.key(0), number)
    sample = jax.jit(
        jax.vmap(lambda key: episodes.sample_indices(key, jnp.asarray(counts), **options))
    )
    return jax.tree.map(np.asarray, sample(keys))


def chi_squared(counts):
    expected = counts.sum() / counts.size
    return ((counts - expected) ** 2 / expected).sum() / counts.size


@pytest.mark.parametrize("rotation", episodes.ROTATIONS)
def test_classes_and_images_are_drawn_without_replacement(rotation):
    drawn = draw(2000, [4, 6, 3, 6, 6, 5, 3], rotation=rotation, **SHAPE)
    chex.assert_shape(drawn.classes, (2000, 3))
    chex.assert_shape(drawn.images, (2000, 3, 3))
    chex.assert_type([drawn.classes, drawn.images, drawn.rotations], np.int32)
    turned = drawn.classes + CLASSES * drawn.rotations
    distinct = turned if rotation == "new_classes" else drawn.classes
    assert (np.diff(np.sort(distinct), axis=1) > 0).all()
    assert (np.diff(np.sort(drawn.images), axis=2) > 0).all()
    assert (drawn.images < np.array([4, 6, 3, 6, 6, 5, 3])[drawn.classes][..., None]).all()
    assert drawn.images.min() == 0
    assert set(np.unique(drawn.rotations)) == ({0} if rotation == "none" else {0, 1, 2, 3})


def test_ordered_draws_are_uniform():
    drawn = draw(42_000, np.full(CLASSES, IMAGES), **SHAPE)
    pairs = drawn.classes[:, 0] * CLASSES + drawn.classes[:, 1]
    counts = np.bincount(pairs, minlength=CLASSES**2)
    assert (counts[:: CLASSES + 1] == 0).all()
    assert chi_squared(counts[counts > 0]) < 2
    pairs = drawn.images[:, 1, 0] * IMAGES + drawn.images[:, 1, 2]
    counts = np.bincount(pairs, minlength=IMAGES**2)
    assert chi_squared(counts[counts > 0]) < 2


def test_every_class_can_be_asked_for_at_once():
    drawn = draw(50, np.full(CLASSES, IMAGES), ways=CLASSES, shots=2, query_shots=4)
    assert (np.sort(drawn.classes) == np.arange(CLASSES)).all()
    assert (np.sort(drawn.images) == np.arange(IMAGES)).all()


def test_an_episode_is_class_major_and_support_and_query_share_no_image():
    episode = episodes.make_sampler(make_pool(), **SHAPE)(jax.random.key(1))
    chex.assert_shape(episode.support.inputs, (3, SIZE, SIZE, 1))
    chex.assert_shape(episode.query.inputs, (6, SIZE, SIZE, 1))
    chex.assert_type(episode.support.inputs, jnp.float32)
    chex.assert_type([episode.support.targets, episode.query.targets], jnp.int32)
    np.testing.assert_array_equal(episode.support.targets, [0, 1, 2])
    np.testing.assert_array_equal(episode.query.targets, [0, 0, 1, 1, 2, 2])

    def identity(examples):
        pixels = np.rint(np.asarray(examples.inputs)[:, 0, :2, 0] * 255).astype(int)
        return [tuple(pair) for pair in pixels]

    support, query = identity(episode.support), identity(episode.query)
    assert len(set(support + query)) == 9
    assert [c for c, _ in query] == [c for c, _ in support for _ in range(2)]


@pytest.mark.parametrize("on_device", [True, False])
def test_rotate_is_rot90_for_each_class(on_device):
    images = np.random.default_rng(0).integers(0, 256, (4, 2, 5, 5, 3), dtype=np.uint8)
    turns = np.arange(4, dtype=np.int32)
    arrays = (jnp.asarray(images), jnp.asarray(turns)) if on_device else (images, turns)
    for k, turned in enumerate(np.asarray(episodes.rotate(*arrays))):
        np.testing.assert_array_equal(turned, np.rot90(images[k], k, axes=(1, 2)))


def test_normalisation():
    pool = make_pool()
    plain = episodes.make_sampler(pool, **SHAPE)(jax.random.key(0)).support.inputs
    prepare = partial(episodes.normalise, mean=[0.5], std=[0.25])
    scaled = episodes.make_sampler(pool, prepare=prepare, **SHAPE)(jax.random.key(0))
    np.testing.assert_allclose(scaled.support.inputs, (plain - 0.5) / 0.25, rtol=1e-6)
    with pytest.raises(ValueError, match="3 values for 1 channels"):
        episodes.normalise(scaled, mean=[0.5] * 3)


@pytest.mark.parametrize(
    ("pool", "error", "message"),
    [
        ({"images": np.zeros((7, 6, 4, 4, 1))}, TypeError, "dtype float64 .* give uint8 pixels"),
        ({"images": np.zeros((7, 6, 4, 4, 1), np.int8)}, TypeError, "dtype int8"),
        ({"images": jnp.zeros((7, 6, 4, 4, 1))}, TypeError, "dtype float32"),
        ({"images": np.zeros((7, 6, 16), np.uint8)}, ValueError, r"shape \[7, 6, 16\]"),
        ({"images": np.zeros((7, 6, 4, 4), np.uint8)}, ValueError, r"\[classes, images, H, W, C\]"),
        ({"images": np.zeros((7, 6, 0, 4, 1), np.uint8)}, ValueError, r"shape \[7, 6, 0, 4, 1\]"),
        ({"images": np.zeros((8, 6, 4, 4, 1), np.uint8)}, ValueError, r"and counts \[classes\]"),
        ({"counts": np.full(7, 6.0)}, TypeError, "pool.counts float64"),
        ({"counts": np.full(7, 7)}, ValueError, "go from 7 to 7; use 0 to 6"),
        ({"counts": np.arange(7) - 1}, ValueError, "go from -1 to 5"),
    ],
)
def test_a_pool_of_another_type_or_shape_is_refused(pool, error, message):
    with pytest.raises(error, match=message):
        episodes.make_sampler(make_pool()._replace(**pool), **SHAPE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rotation": "per-class"}, "choose from none, per_class, new_classes"),
        ({"ways": 8}, r"task\.ways.*data\.split_fractions"),
        ({"shots": 0}, "each must be 1 or more"),
    ],
)
def test_indices_that_do_not_exist_are_not_drawn(options, message):
    counts = jnp.full(CLASSES, IMAGES)
    with pytest.raises(ValueError, match=message):
        episodes.sample_indices(jax.random.key(0), counts, **{**SHAPE, **options})


@pytest.mark.parametrize(("options", "message"), UNDRAWABLE)
def test_what_cannot_be_drawn_is_said_at_start(options, message):
    with pytest.raises(ValueError, match=message):
        episodes.make_sampler(make_pool(), **{**SHAPE, **options})


def test_rotation_needs_square_images():
    pool = Pool(np.zeros((7, 6, 4, 5, 1), np.uint8), np.full(7, 6, np.int32))
    with pytest.raises(ValueError, match="square images, not 4x5"):
        episodes.make_sampler(pool, rotation="per_class", **SHAPE)
