"""Data sets that TFDS prepares: Omniglot, CIFAR-100 and any other of image classification.

A prepared data set is read without TensorFlow; only preparing it needs TensorFlow.
"""

import contextlib
import importlib.util
import logging
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from maml_jax.errors import first_line
from maml_jax.tasks.images.cache import expand_home
from maml_jax.tasks.images.decoding import as_image
from maml_jax.tasks.images.records import (
    DATA_DIR_VARIABLE,
    Record,
    Source,
    SourceRequest,
    list_files,
)

_READ_AT_ONCE = 512  # records; reading one by one takes 2.5 times as long
_log = logging.getLogger(__name__)


def _find_builder(name: str, data_dir: pathlib.Path) -> tfds.core.DatasetBuilder:
    data_dir = expand_home(str(data_dir), f"data.dir or {DATA_DIR_VARIABLE}")
    try:
        with _named(name, data_dir, ImportError, tfds.core.DatasetNotFoundError):
            builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        if not builder.is_prepared():
            if importlib.util.find_spec("tensorflow") is None:
                raise ImportError("tensorflow")
            _log.warning("%s is not prepared under %s: preparing it", name, data_dir)
            _prepare(builder)
    except ImportError as error:
        raise ValueError(
            f"TFDS set {name!r} is not prepared under {data_dir}, and preparing it needs "
            f"{error.name or error}: pip install -e '.[tensorflow]', or set the data dir "
            f"(or {DATA_DIR_VARIABLE}) to where it is prepared"
        ) from error
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(f"TFDS knows no data set {name!r} and {data_dir} has none") from error
    return builder


@contextlib.contextmanager
def _named(name: str, data_dir: pathlib.Path, *known: type[Exception]) -> Iterator[None]:
    """Names the data set in errors that its damaged files cause in TFDS."""
    try:
        yield
    except known:
        raise
    except Exception as error:  # Damage turns up as errors of JSON, protobuf and lookups.
        raise ValueError(
            f"TFDS set {name!r} under {data_dir} cannot be read ({first_line(error)}); check the "
            "name and the folder, or prepare it again"
        ) from error


def _prepare(builder: tfds.core.DatasetBuilder) -> None:
    try:
        builder.download_and_prepare()
    except ImportError:
        raise
    except Exception as error:  # Downloads fail in as many ways as there are data sets.
        raise ValueError(
            f"TFDS set {builder.name!r} could not be prepared: {first_line(error)}"
        ) from error


def _rows(
    builder: tfds.core.DatasetBuilder, splits: Sequence[str], image_key: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields (TFDS split, example) with the image still encoded, to decode it in one way."""
    decoders = {image_key: tfds.decode.SkipDecoding()}
    for split in splits:
        source = builder.as_data_source(split=split, decoders=decoders)
        for start in range(0, len(source), _READ_AT_ONCE):
            rows = range(start, min(start + _READ_AT_ONCE, len(source)))
            for row in source.__getitems__(rows):
                yield split, row


def _fingerprint(builder: tfds.core.DatasetBuilder, splits: Sequence[str]) -> dict[str, object]:
    parts = [builder.info.splits[split] for split in splits]
    paths = [pathlib.Path(path) for part in parts for path in part.filepaths]
    files = list_files(paths, pathlib.Path(builder.data_path))
    return {"tfds": builder.info.full_name, "files": files}


def _length(builder: tfds.core.DatasetBuilder, splits: Sequence[str]) -> int:
    return sum(builder.info.splits[split].num_examples for split in splits)


def _open_omniglot(request: SourceRequest) -> Source:
    builder = _find_builder("omniglot", request.data_dir)
    alphabets = builder.info.features["alphabet"].names
    parts = {"train": "background", "test": "evaluation"}

    def records() -> Iterator[Record]:
        for split, row in _rows(builder, tuple(parts), "image"):
            character = f"character{int(row['alphabet_char_id']) + 1:02}"
            name = f"{parts[split]}/{alphabets[int(row['alphabet'])]}/{character}"
            yield name, as_image(row["image"], binary=True)

    return Source(
        fingerprint=_fingerprint(builder, tuple(parts)),
        length=_length(builder, tuple(parts)),
        records=records,
        image_size=28,
        channels=1,
        invert=True,
        complete=(1623, 20),
    )


def _open_cifar100(request: SourceRequest) -> Source:
    builder = _find_builder("cifar100", request.data_dir)
    splits = ("train", "test")
    fine, coarse = (builder.info.features[key].names for key in ("label", "coarse_label"))

    def records() -> Iterator[Record]:
        for _, row in _rows(builder, splits, "image"):
            name = f"{coarse[int(row['coarse_label'])]}/{fine[int(row['label'])]}"
            yield name, as_image(row["image"])

    return Source(
        fingerprint=_fingerprint(builder, splits),
        length=_length(builder, splits),
        records=records,
        image_size=32,
        channels=3,
    )


def _open_any(request: SourceRequest) -> Source:
    name = request.argument
    builder = _find_builder(name, request.data_dir)
    info = builder.info
    kinds = [info.features[key] for key in info.supervised_keys or ()]
    wanted = (tfds.features.Image, tfds.features.ClassLabel)
    if len(kinds) != 2 or not all(map(isinstance, kinds, wanted)):
        raise ValueError(
            f"TFDS set {name!r} does not classify images (no image and label); use another"
        )
    image_key, label_key = info.supervised_keys
    labels = info.features[label_key]
    # Other splits (small1, corrupted, ...) repeat images of these.
    standard = [split for split in ("train", "validation", "test") if split in info.splits]
    splits = standard or sorted(info.splits)
    height, width, channels = info.features[image_key].shape

    def records() -> Iterator[Record]:
        for _, row in _rows(builder, splits, image_key):
            if row[label_key] >= 0:  # -1 means unlabelled.
                yield labels.int2str(int(row[label_key])), as_image(row[image_key])

    return Source(
        fingerprint=_fingerprint(builder, splits),
        length=_length(builder, splits),
        records=records,
        image_size=height if height == width else None,
        channels=1 if channels == 1 else 3,
    )


_OPEN = {
    "omniglot": _open_omniglot,
    "cifar_fs": _open_cifar100,
    "fc100": _open_cifar100,
    "tfds": _open_any,
}


def open_source(request: SourceRequest) -> Source:
    """Opens a data set, which TFDS prepares first if it is not there.

    Raises:
      ValueError: TFDS does not know it, it cannot be prepared or read, or it does not classify
        images.
    """
    with _named(request.argument or request.name, request.data_dir, ValueError):
        return _OPEN[request.name](request)
