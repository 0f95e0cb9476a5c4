"""Settings of tasks and of image data: the sections `task` and `data` of a config."""

import dataclasses
from typing import Any

from maml_jax.settings import Rule, at_least, each, is_number, one_of, setting
from maml_jax.tasks.episodes import ROTATIONS
from maml_jax.tasks.images.splits import FRACTIONS


def _is_positive(value: Any) -> bool:
    return is_number(value) and value > 0


_CHANNELS = Rule(lambda value: value in (0, 1, 3), lambda: "0, 1 or 3")
_SHARES = Rule(
    lambda value: len(value) == 3 and all(map(_is_positive, value)) and abs(sum(value) - 1) < 1e-6,
    lambda: "three positive shares that add up to 1",
)


@dataclasses.dataclass(frozen=True)
class TaskSettings:
    """The family of tasks and the size of its training episodes."""

    name: str = setting("sinusoid", "family of tasks")
    ways: int = setting(5, "classes in an episode; the sinusoid ignores it", at_least(2))
    shots: int = setting(
        10, "support examples of a class, or points of a sinusoid, in training", at_least(1)
    )
    query_shots: int = setting(
        10, "query examples of a class, or points of a sinusoid, in training", at_least(1)
    )
    oracle: bool = setting(
        False, "whether the network of the sinusoid receives amplitude and phase as inputs"
    )


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """The images of classification tasks: where they come from and how they are processed."""

    name: str = setting(
        "",
        "data set: omniglot, cifar_fs, fc100, mini_imagenet:PATH, tiered_imagenet:PATH, tfds:NAME, "
        "folder:PATH, npz:PATH, glyphs or a registered name; empty: glyphs",
    )
    dir: str = setting("", "folder of TFDS; empty: TFDS_DATA_DIR, or else the default of TFDS")
    splits_dir: str = setting(
        "",
        "folder of class-split files; empty: MAML_JAX_SPLITS_DIR, or else `splits` beside the "
        "folder of TFDS",
    )
    cache_dir: str = setting(
        "", "folder of processed images; empty: MAML_JAX_CACHE_DIR, or else ~/.cache/maml_jax"
    )
    split: str = setting(
        "",
        "class split: of omniglot finn, vinyals or lake, of other data own (as they are divided) "
        "or random, or a file or folder that lists the classes; empty: the default of the data set",
    )
    split_seed: int = setting(
        0, "seed of random class splits and of the distortions of glyphs", at_least(0)
    )
    split_fractions: tuple[float, ...] = setting(
        FRACTIONS,
        "shares of the training, validation and test classes, for data without a published split",
        _SHARES,
    )
    class_depth: int = setting(
        1,
        "folders of folder:PATH whose names together are a class; 2: as alphabet/character",
        at_least(1),
    )
    image_size: int = setting(0, "height and width in pixels; 0: the size of the data", at_least(0))
    channels: int = setting(0, "1: gray, 3: RGB, 0: the channels of the data", _CHANNELS)
    invert: str = setting(
        "auto",
        "whether a pixel becomes 255 - pixel; auto: only in omniglot",
        one_of(("auto", "yes", "no")),
    )
    min_images: int = setting(1, "classes with fewer images are left out", at_least(1))
    deduplicate: str = setting(
        "auto",
        "whether copies of an image in its class are left out; auto: only of folder:PATH",
        one_of(("auto", "yes", "no")),
    )
    follow_links: bool = setting(
        False, "whether links that lead out of the folder of folder:PATH are followed"
    )
    rotation: str = setting(
        "none",
        "per_class: turn each class of an episode by a random number of quarter turns; "
        "new_classes: make four classes of each class, one for each turn",
        one_of(ROTATIONS),
    )
    mean: tuple[float, ...] = setting(
        (),
        "subtracted from pixels / 255, one value or one per channel; empty: nothing",
        each(is_number, "a tuple of finite numbers"),
    )
    std: tuple[float, ...] = setting(
        (),
        "divides pixels after mean is subtracted, one value or one per channel; empty: nothing",
        each(_is_positive, "a tuple of positive numbers"),
    )
    pool: str = setting(
        "device",
        "memory of the training images; host: for data that do not fit on the device",
        one_of(("device", "host")),
    )
