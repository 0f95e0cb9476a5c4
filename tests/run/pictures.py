"""Folders of images that are easy to tell apart, and runs on them."""

import pathlib

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from tests.run.runs import tiny_config

SIZE = 8


def draw(folder: pathlib.Path, classes: int = 30, images: int = 3) -> pathlib.Path:
    """Each class is a pattern, each image the pattern with noise."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        pattern = rng.integers(0, 200, (SIZE, SIZE))
        (folder / f"c{label:02d}").mkdir(parents=True)
        for image in range(images):
            pixels = pattern + rng.integers(0, 50, pattern.shape)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"c{label:02d}/{image}.png")
    return folder


def picture_config(folder: pathlib.Path, **changes: object) -> ConfigDict:
    settings = {
        "num_meta_steps": 4,
        "steps_per_dispatch": 2,
        "meta_batch_size": 8,
        "task__name": "images",
        "task__ways": 3,
        "task__shots": 1,
        "task__query_shots": 2,
        "eval__shots": 1,
        "eval__query_shots": 2,
        "eval__num_steps": 2,
        "eval__validation_every": 2,
        "eval__validation_episodes": 8,
        "data__name": f"folder:{folder}",
        "data__cache_dir": str(folder.with_name("cache")),
        "data__image_size": SIZE,
        "data__channels": 1,
        "data__invert": "yes",
        "data__mean": (0.4,),
        "model__name": "mlp",
        "model__kernel_init": "he",
        "inner__step_size": 0.1,
    }
    return tiny_config(**(settings | changes))
