"""What a data set is before it is decoded: named records of images or features."""

import dataclasses
import pathlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from maml_jax.errors import first_line
from maml_jax.tasks.images.cache import digest
from maml_jax.tasks.images.decoding import as_image

DATA_DIR_VARIABLE = "TFDS_DATA_DIR"

Record = tuple[str, Image.Image | np.ndarray]  # name of the class; image, or features float32 [d]


class Source(NamedTuple):
    """A data set before it is decoded."""

    fingerprint: Mapping[str, object]  # JSON that tells one version of the data from another
    length: int  # number of records, at most
    records: Callable[[], Iterable[Record]]
    image_size: int | None  # height and width, if all images have the same
    channels: int  # 1 or 3
    invert: bool = False  # what the setting invert="auto" stands for
    complete: tuple[int, int] | None = None  # classes and images of each, if known; checked
    deduplicate: bool = False  # what the setting deduplicate="auto" stands for
    features: int = 0  # d, if the records are features instead of images
    classes: Collection[str] | None = None  # their names, if known before decoding
    parts: Mapping[str, Collection[str]] = {}  # train, val, test -> classes, of divided data
    layout: str = ""  # how the data lie, for the line that a run prints


@dataclasses.dataclass(frozen=True)
class SourceRequest:
    """What a data set is opened with."""

    name: str  # before the colon
    argument: str  # after the colon, or empty
    data_dir: pathlib.Path  # folder of TFDS
    image_size: int  # wanted, in pixels; 0 is the data set's own
    seed: int  # of data that are generated
    follow_links: bool = False  # that lead out of a folder of data
    class_depth: int = 1  # folders that name a class


OpenSource = Callable[[SourceRequest], Source]


def list_files(files: Iterable[pathlib.Path], root: pathlib.Path) -> str:
    """Digest of the paths under `root`, sizes and times of files."""
    stats = [(str(file.relative_to(root)), file.stat()) for file in files]
    return digest([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def read_image(file: pathlib.Path) -> Image.Image:
    """Decodes a file.

    Raises:
      ValueError: it cannot be read, or is not an image; the message names it.
    """
    try:
        content = file.read_bytes()
    except (OSError, MemoryError) as error:
        raise ValueError(f"{file} cannot be read ({first_line(error)})") from error
    return as_image(content, name=str(file))
