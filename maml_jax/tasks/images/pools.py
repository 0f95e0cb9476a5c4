"""Image data sets by name, as pools of training, validation and test classes."""

import dataclasses
import hashlib
import json
import logging
import math
import pathlib
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import PIL
from tqdm import tqdm

from maml_jax.errors import first_line
from maml_jax.settings import check_value
from maml_jax.tasks.episodes import Pool
from maml_jax.tasks.images.cache import digest, find_cache_dir, read_or_write
from maml_jax.tasks.images.decoding import RESAMPLING, Layout, to_pixels
from maml_jax.tasks.images.records import Source
from maml_jax.tasks.images.sources import find_data_dir, open_source
from maml_jax.tasks.images.splits import (
    FILE_PROTOCOLS,
    Split,
    find_splits_dir,
    resolve_protocol,
    split_classes,
)
from maml_jax.tasks.settings import DataSettings

_CACHE_VERSION = 2  # Raise it when the code makes other pools from the same key.
_log = logging.getLogger(__name__)


class Pools(NamedTuple):
    """A data set split by class. Images are read-only memory maps of the cache."""

    train: Pool
    val: Pool
    test: Pool
    classes: Split  # names, in the order of the pools
    invert: bool = False  # whether a pixel is 255 - that of the data


def load_pools(data: DataSettings) -> Pools:
    """Loads a data set by name and splits its classes.

    The data set is decoded and processed once; later calls map the result from the cache.

    Args:
      data: the settings; `rotation`, `mean`, `std` and `pool` are for those who sample episodes.

    Returns:
      Pools of numpy arrays.

    Raises:
      ValueError: a setting is not allowed, or the data are absent, unreadable or incomplete.
    """
    for field in dataclasses.fields(data):
        value, rule = getattr(data, field.name), field.metadata["rule"]
        check_value(f"data.{field.name}", value, field.default, rule)
    folder = find_data_dir(data.dir)
    protocol = resolve_protocol(data.name.partition(":")[0], data.split)
    source = open_source(
        data.name,
        data_dir=folder,
        image_size=data.image_size,
        seed=data.split_seed,
        follow_links=data.follow_links,
    )
    layout = _choose_layout(data, source)
    files = find_splits_dir(data.splits_dir, folder) if protocol in FILE_PROTOCOLS else None
    key = {
        "version": _CACHE_VERSION,
        "pillow": PIL.__version__,  # decodes and resizes
        "name": data.name,
        "source": source.fingerprint,
        "layout": [*layout, RESAMPLING],
        "split": _split_key(protocol, data.split_seed, data.split_fractions, files),
        "min_images": data.min_images,
        "deduplicate": _drops_copies(data, source),
    }
    entry = f"{re.sub(r'[^A-Za-z0-9]+', '_', data.name)[-40:]}-{digest(key)}"
    split_names = partial(
        split_classes,
        protocol=protocol,
        seed=data.split_seed,
        fractions=data.split_fractions,
        splits_dir=files,
    )
    write = partial(_write_pools, data, source, layout, split_names)
    pools = read_or_write(find_cache_dir(data.cache_dir) / entry, _read_pools, write)
    return pools._replace(invert=layout.invert)


def _choose_layout(data: DataSettings, source: Source) -> Layout:
    size = data.image_size or source.image_size
    if size is None:
        raise ValueError(
            f"{data.name} has images of many sizes; set data.image_size, for example to 84"
        )
    invert = {"auto": source.invert, "yes": True, "no": False}[data.invert]
    return Layout(size, data.channels or source.channels, invert)


def _drops_copies(data: DataSettings, source: Source) -> bool:
    return {"auto": source.deduplicate, "yes": True, "no": False}[data.deduplicate]


def _split_key(
    protocol: str, seed: int, fractions: Sequence[float], files: pathlib.Path | None
) -> list[object]:
    """What the split depends on, and nothing else: a seed it ignores makes no second copy."""
    if files is not None:
        listings = sorted(f for f in files.iterdir() if f.suffix in (".json", ".txt"))
        return [protocol, {file.name: zlib.crc32(file.read_bytes()) for file in listings}]
    return [protocol, seed, *(fractions if protocol == "random" else ())]


def _processed(name: str, source: Source, layout: Layout) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the class and the pixels of every record; errors name the record."""
    number = 0
    try:
        for label, image in source.records():
            yield label, to_pixels(image, layout)
            number += 1
    except Exception as error:  # A source may raise anything, and so may Pillow's plug-ins.
        raise ValueError(f"{name}, image {number}: {first_line(error)}") from error


def _decode_all(
    name: str, source: Source, layout: Layout, file: pathlib.Path
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, H, W, C], mapped from a scratch file, and their classes [n].

    Files are written one image after another, not through a memory map: a full disk is an error
    then, where a map would end the process.
    """
    shape = (source.length, layout.image_size, layout.image_size, layout.channels)
    needed, free = math.prod(shape), shutil.disk_usage(file.parent).free
    if needed > free:
        raise OSError(
            f"{shape[0]} images of {shape[1:]} need {needed:.1e} bytes; {free:.1e} are free"
        )
    labels = []
    images = _processed(name, source, layout)
    with file.open("wb") as opened:
        for label, pixels in tqdm(images, "decoding", source.length, unit="image", disable=None):
            opened.write(pixels.data)
            labels.append(label)
    if not labels:
        raise ValueError(f"{name} has no images")
    decoded = np.memmap(file, np.uint8, "r", shape=(len(labels), *shape[1:]))
    return decoded, np.array(labels, np.str_)


def _rows_by_class(labels: np.ndarray) -> dict[str, np.ndarray]:
    order = np.argsort(labels, kind="stable")
    classes, starts = np.unique(labels[order], return_index=True)
    rows = np.split(order, starts[1:])
    return {str(c): r for c, r in zip(classes, rows, strict=True)}


def _first_of_copies(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The rows of one class without those whose pixels an earlier one has."""
    first: dict[bytes, int] = {}
    for row in rows:
        first.setdefault(hashlib.blake2b(images[row].tobytes()).digest(), row)
    return np.array(list(first.values()))


def _without_copies(
    name: str, images: np.ndarray, rows: dict[str, np.ndarray], drop: bool
) -> dict[str, np.ndarray]:
    """Reports the images that repeat another of their class, and drops them if asked to."""
    distinct = {c: _first_of_copies(images, r) for c, r in rows.items()}
    copies = Counter({c: len(r) - len(distinct[c]) for c, r in rows.items()})
    if copies.total():
        _log.warning(
            "%s: %d of %d images repeat another of their class (most in %s); %s",
            name,
            copies.total(),
            len(images),
            ", ".join(f"{c}: {number}" for c, number in copies.most_common(3) if number),
            "they are left out" if drop else "data.deduplicate='yes' leaves them out",
        )
    return distinct if drop else rows


def _check_complete(name: str, rows: dict[str, np.ndarray], classes: int, each: int) -> None:
    if len(rows) != classes or any(len(r) != each for r in rows.values()):
        raise ValueError(
            f"{name} has {len(rows)} classes, not {classes} with {each} images each; its prepared "
            "data are incomplete: prepare them again"
        )


def _write_pools(
    data: DataSettings,
    source: Source,
    layout: Layout,
    split_names: Callable[[Sequence[str]], Split],
    folder: pathlib.Path,
) -> None:
    """Writes images.npy [classes, images, H, W, C], train first, then val, then test."""
    images, labels = _decode_all(data.name, source, layout, folder / "decoded")
    rows = _rows_by_class(labels)
    if source.complete is not None:
        _check_complete(data.name, rows, *source.complete)
    rows = _without_copies(data.name, images, rows, _drops_copies(data, source))
    largest = max(map(len, rows.values()))
    rows = {name: r for name, r in rows.items() if len(r) >= data.min_images}
    if not rows:
        raise ValueError(
            f"no class has min_images={data.min_images} images, the largest has {largest}; lower "
            "data.min_images"
        )
    split = split_names(tuple(rows))
    ordered = [rows[name] for part in split for name in part]
    counts = [len(r) for r in ordered]
    shape = (len(counts), max(counts), *images.shape[1:])
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with (folder / "images.npy").open("wb") as opened:
        np.lib.format.write_array_header_1_0(opened, header)
        for r in ordered:
            opened.write(images[r].data)
            opened.write(bytes((max(counts) - len(r)) * images[0].nbytes))
    (folder / "decoded").unlink()
    meta = {"split": split, "counts": counts}
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def _read_pools(folder: pathlib.Path) -> Pools:
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    images = np.load(folder / "images.npy", mmap_mode="r")
    counts = np.array(meta["counts"], np.int32)
    split = Split(*map(tuple, meta["split"]))
    stops = np.cumsum([len(part) for part in split])
    train, val, test = (
        Pool(images[stop - len(part) : stop], counts[stop - len(part) : stop])
        for part, stop in zip(split, stops, strict=True)
    )
    return Pools(train, val, test, split)
