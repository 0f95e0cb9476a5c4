"""A small pool of images whose pixels tell which they are."""

import numpy as np

from maml_jax.tasks.episodes import Pool

CLASSES, IMAGES, SIZE = 7, 6, 4
SHAPE = {"ways": 3, "shots": 1, "query_shots": 2}
# Options that the pool cannot serve, and the message.
UNDRAWABLE = [
    ({"ways": 8}, "ways=8 but the pool has 7 classes"),
    ({"ways": 29, "rotation": "new_classes"}, "pool has 28 classes"),
    ({"shots": 3, "query_shots": 4}, "need 7 images of each class, but 7 of 7 classes"),
    ({"shots": 0}, "each must be 1 or more"),
    ({"rotation": "all"}, "choose from none, per_class, new_classes"),
]


def make_pool(counts=None):
    """Every image tells its class and its number in its first two pixels."""
    images = np.random.default_rng(0).integers(
        0, 256, (CLASSES, IMAGES, SIZE, SIZE, 1), dtype=np.uint8
    )
    images[:, :, 0, 0, 0] = np.arange(CLASSES)[:, None]
    images[:, :, 0, 1, 0] = np.arange(IMAGES)
    counts = np.full(CLASSES, IMAGES) if counts is None else np.array(counts)
    return Pool(images, counts.astype(np.int32))
