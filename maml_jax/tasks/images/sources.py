"""Image data sets by name, before they are decoded.

omniglot, cifar_fs and fc100; tfds:NAME, any image-classification set of TFDS; folder:PATH, a folder
of class folders; npz:PATH, arrays `images` and `labels`; glyphs, the characters of fonts, which
need no download; and the data sets of `register_dataset`.
"""

import logging
import os
import pathlib
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from maml_jax.errors import first_line
from maml_jax.registry import Registry
from maml_jax.tasks.images import folders, glyphs
from maml_jax.tasks.images.cache import crc32, expand_home
from maml_jax.tasks.images.decoding import as_image
from maml_jax.tasks.images.records import (
    DATA_DIR_VARIABLE,
    OpenSource,
    Record,
    Source,
    SourceRequest,
    list_files,
)

_log = logging.getLogger(__name__)


class Dataset(NamedTuple):
    """An entry of `DATASETS`."""

    open_source: OpenSource
    argument: str = ""  # what follows NAME: in messages, such as PATH; empty if nothing does


def find_data_dir(data_dir: str) -> pathlib.Path:
    """The argument if not empty, or else TFDS_DATA_DIR, or else TFDS's default."""
    folder = data_dir or os.environ.get(DATA_DIR_VARIABLE) or "~/tensorflow_datasets"
    return pathlib.Path(os.path.expanduser(folder))  # ~ stays if there is no home folder


def source_of_arrays(images: np.ndarray, labels: np.ndarray) -> Source:
    """Makes a data set of arrays.

    Args:
      images: uint8 or bool [n, H, W] or [n, H, W, C], C being 1 or 3.
      labels: [n], numbers or strings that name the classes.

    Raises:
      ValueError: the arrays have other types or shapes.
    """
    grid = images[..., None] if images.ndim == 3 else images
    valid = grid.dtype in (np.uint8, np.bool_) and grid.ndim == 4 and grid.shape[3] in (1, 3)
    if not valid or 0 in grid.shape[1:] or labels.shape != grid.shape[:1]:
        raise ValueError(
            f"images {images.dtype}{list(images.shape)} and labels {list(labels.shape)} must be "
            "uint8 [n, H, W, C] with C 1 or 3, and [n]"
        )

    def records() -> Iterator[Record]:
        for image, label in zip(grid, labels, strict=True):
            yield str(label), as_image(image)

    height, width, channels = grid.shape[1:]
    square = height if height == width else None
    fingerprint = {"crc32": (crc32(grid), crc32(labels))}
    return Source(fingerprint, len(labels), records, square, channels)


def _open_folder(request: SourceRequest) -> Source:
    name = f"folder:{request.argument}"
    root = expand_home(request.argument, "data.name")
    if not root.is_dir():
        raise ValueError(f"{name} is not a folder; give a folder of class folders")
    try:
        files, left_out = folders.list_images(root, follow_links=request.follow_links)
        listing = list_files(files, root)
    except OSError as error:
        raise ValueError(f"{name} cannot be read ({error}); allow reading it") from error
    summary = f"left out: {folders.describe(left_out)}" if left_out else "it is empty"
    if not files:
        raise ValueError(f"{name} has no images in class folders (PATH/CLASS/IMAGE); {summary}")

    def records() -> Iterator[Record]:
        if left_out:
            _log.warning("%s: %s", name, summary)
        for file in files:
            try:
                content = file.read_bytes()
            except (OSError, MemoryError) as error:
                raise ValueError(f"{file} cannot be read ({first_line(error)})") from error
            yield file.relative_to(root).parts[0], as_image(content, name=str(file))

    return Source({"files": listing}, len(files), records, None, 3, deduplicate=True)


def _open_npz(request: SourceRequest) -> Source:
    name = f"npz:{request.argument}"
    file = expand_home(request.argument, "data.name")
    try:
        if file.exists() and not file.is_file():
            raise ValueError("it is no file")
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except Exception as error:  # Damage may turn up anywhere in zip, zlib, numpy or its headers.
        raise ValueError(
            f"{name} cannot be read ({first_line(error)}); give an .npz with images and labels"
        ) from error
    try:
        return source_of_arrays(images, labels)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


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
        "folder": Dataset(_open_folder, "PATH"),
        "npz": Dataset(_open_npz, "PATH"),
        "glyphs": Dataset(_open_glyphs),
    },
)


def register_dataset(name: str, open_source: OpenSource, argument: str = "") -> None:
    """Makes `data.name=NAME` load a data set of your own.

    Its classes are split at random; see `data.split_fractions` and `data.split_seed`.

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


def open_source(
    name: str, *, data_dir: pathlib.Path, image_size: int, seed: int, follow_links: bool = False
) -> Source:
    """Opens the data set called NAME or NAME:ARGUMENT.

    Raises:
      ValueError: the name is unknown, or the data are absent or unreadable.
    """
    kind, colon, argument = name.partition(":")
    entry = DATASETS.get(kind)
    if entry is None or bool(entry.argument) != bool(argument) or (colon and not argument):
        names = (f"{key}:{e.argument}" if e.argument else key for key, e in DATASETS.items())
        raise ValueError(f"data set {name!r} is unknown; choose from {', '.join(names)}")
    return entry.open_source(
        SourceRequest(kind, argument, data_dir, image_size, seed, follow_links)
    )
