"""Image data sets by name, before they are decoded.

omniglot, cifar_fs and fc100; tfds:NAME, any image-classification set of TFDS; mini_imagenet:PATH
and tiered_imagenet:PATH; folder:PATH, a folder of class folders; npz:PATH, arrays of images or
features and their labels; glyphs, the characters of fonts, which need no download; and the data
sets of `register_dataset`.
"""

import os
import pathlib
from functools import partial
from typing import NamedTuple

from maml_jax.registry import Registry
from maml_jax.tasks.images import glyphs, imagenet
from maml_jax.tasks.images.arrays import open_npz, source_of_arrays
from maml_jax.tasks.images.folders import open_folder
from maml_jax.tasks.images.records import (
    DATA_DIR_VARIABLE,
    OpenSource,
    Source,
    SourceRequest,
)
from maml_jax.tasks.settings import DataSettings

__all__ = [
    "DATASETS",
    "Dataset",
    "find_data_dir",
    "open_source",
    "register_dataset",
    "source_of_arrays",
]


class Dataset(NamedTuple):
    """An entry of `DATASETS`."""

    open_source: OpenSource
    argument: str = ""  # what follows NAME: in messages, such as PATH; empty if nothing does


def find_data_dir(data_dir: str) -> pathlib.Path:
    """The argument if not empty, or else TFDS_DATA_DIR, or else TFDS's default."""
    folder = data_dir or os.environ.get(DATA_DIR_VARIABLE) or "~/tensorflow_datasets"
    return pathlib.Path(os.path.expanduser(folder))  # ~ stays if there is no home folder


def _open_glyphs(request: SourceRequest) -> Source:
    size = request.image_size or glyphs.IMAGE_SIZE
    return Source(
        fingerprint={**glyphs.fingerprint(), "seed": request.seed, "image_size": size},
        length=glyphs.LENGTH,
        records=partial(glyphs.render_all, size, request.seed),
        image_size=size,
        channels=1,
    )


def _open_prepared(request: SourceRequest) -> Source:
    # TFDS takes a second to import, and the other data sets do not need it.
    from maml_jax.tasks.images import tfds

    return tfds.open_source(request)


DATASETS = Registry(
    "data set",
    {
        "omniglot": Dataset(_open_prepared),
        "cifar_fs": Dataset(_open_prepared),
        "fc100": Dataset(_open_prepared),
        "tfds": Dataset(_open_prepared, "NAME"),
        "mini_imagenet": Dataset(imagenet.open_source, "PATH"),
        "tiered_imagenet": Dataset(imagenet.open_source, "PATH"),
        "folder": Dataset(open_folder, "PATH"),
        "npz": Dataset(open_npz, "PATH"),
        "glyphs": Dataset(_open_glyphs),
    },
)


def register_dataset(name: str, open_source: OpenSource, argument: str = "") -> None:
    """Makes `data.name=NAME` load a data set of your own.

    Its classes are split at random (see `data.split_fractions` and `data.split_seed`), unless the
    `Source` has `parts` or `data.split` names a file.

    Args:
      name: letters, digits and underscores.
      open_source: makes the `Source`, for example by `source_of_arrays`.
      argument: if not empty, the data set is called `NAME:ARGUMENT`, `open_source` finds what
        follows the colon in `request.argument`, and messages call it by this word, such as PATH.

    Raises:
      ValueError: the name is malformed or belongs to the package.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from maml_jax.tasks.images.pools import load_pools
      >>> from maml_jax.tasks.images.sources import register_dataset, source_of_arrays
      >>> from maml_jax.tasks.settings import DataSettings
      >>> def open_noise(request):
      ...     images = np.random.default_rng(request.seed).integers(0, 256, (40, 8, 8), np.uint8)
      ...     return source_of_arrays(images, labels=np.repeat(np.arange(10), 4))
      >>> register_dataset("noise", open_noise)
      >>> pools = load_pools(DataSettings(name="noise", cache_dir=tempfile.mkdtemp()))
      >>> pools.train.images.shape
      (6, 4, 8, 8, 1)
    """
    DATASETS.register(name, Dataset(open_source, argument))


def open_source(data: DataSettings) -> Source:
    """Opens the data set called NAME or NAME:ARGUMENT.

    Raises:
      ValueError: the name is unknown, or the data are absent or unreadable.
    """
    kind, colon, argument = data.name.partition(":")
    entry = DATASETS.get(kind)
    if entry is None or bool(entry.argument) != bool(argument) or (colon and not argument):
        names = (f"{key}:{e.argument}" if e.argument else key for key, e in DATASETS.items())
        raise ValueError(f"data set {data.name!r} is unknown; choose from {', '.join(names)}")
    if data.class_depth != 1 and kind != "folder":
        raise ValueError(
            f"data.class_depth={data.class_depth} has no effect on {data.name}; leave it out, as "
            "it is for folder:PATH"
        )
    return entry.open_source(
        SourceRequest(
            kind,
            argument,
            find_data_dir(data.dir),
            data.image_size,
            data.split_seed,
            data.follow_links,
            data.class_depth,
        )
    )
