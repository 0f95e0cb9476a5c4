"""Image data sets by name, as pools of training, validation and test classes."""

import dataclasses
import hashlib
import json
import logging
import math
import pathlib
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import PIL
from tqdm import tqdm

from maml_jax.errors import first_line
from maml_jax.settings import check_value
from maml_jax.tasks.episodes import Pool
from maml_jax.tasks.images.cache import digest, find_cache_dir, read_or_write
from maml_jax.tasks.images.decoding import RESAMPLING, Layout, to_pixels
from maml_jax.tasks.images.records import Source
from maml_jax.tasks.images.sources import open_source
from maml_jax.tasks.images.split_choice import ChosenSplit, choose_split
from maml_jax.tasks.images.split_files import check_listed
from maml_jax.tasks.images.splits import Split
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
    summary: str = ""  # how the data lie and are divided, in one line


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
    source = open_source(data)
    split = choose_split(data, source)
    form = _choose_form(data, source)
    key = {
        "version": _CACHE_VERSION,
        "pillow": PIL.__version__,  # decodes and resizes
        "name": data.name,
        "source": source.fingerprint,
        "layout": form.key,
        "split": split.key,
        "min_images": data.min_images,
        "deduplicate": _drops_copies(data, source),
    }
    entry = f"{re.sub(r'[^A-Za-z0-9]+', '_', data.name)[-40:]}-{digest(key)}"
    write = partial(_write_pools, data, source, form, split)
    pools = read_or_write(find_cache_dir(data.cache_dir) / entry, _read_pools, write)
    return pools._replace(invert=form.invert, summary=_summary(data, source, split, pools))


class _Form(NamedTuple):
    """The form of processed examples."""

    shape: tuple[int, ...]  # [H, W, C] or [d]
    dtype: np.dtype[Any]
    process: Callable[[Any], np.ndarray]
    invert: bool
    key: list[object]


def _choose_form(data: DataSettings, source: Source) -> _Form:
    if source.features:
        for name in ("image_size", "channels", "invert"):
            value = getattr(data, name)
            if value != getattr(DataSettings, name):
                raise ValueError(
                    f"data.{name}={value!r} has no effect on the features of {data.name}; leave it "
                    "out"
                )
        features, key = partial(_to_features, size=source.features), ["features", source.features]
        return _Form((source.features,), np.dtype(np.float32), features, False, key)
    size = data.image_size or source.image_size
    if size is None:
        raise ValueError(
            f"{data.name} has images of many sizes; set data.image_size, for example to 84"
        )
    invert = {"auto": source.invert, "yes": True, "no": False}[data.invert]
    layout = Layout(size, data.channels or source.channels, invert)
    shape, process = (size, size, layout.channels), partial(to_pixels, layout=layout)
    return _Form(shape, np.dtype(np.uint8), process, invert, [*layout, RESAMPLING])


def _to_features(row: Any, size: int) -> np.ndarray:
    features = np.array(row, np.float32)
    if features.shape != (size,) or not np.isfinite(features).all():
        raise ValueError(f"it is not {size} finite numbers")
    return features


def _drops_copies(data: DataSettings, source: Source) -> bool:
    return {"auto": source.deduplicate, "yes": True, "no": False}[data.deduplicate]


def _summary(data: DataSettings, source: Source, split: ChosenSplit, pools: Pools) -> str:
    """What was found, in one line; empty for data sets that are always the same."""
    if not source.layout:
        return ""
    counts = np.concatenate([pool.counts for pool in pools[:3]])
    low, high = counts.min(), counts.max()
    train, val, test = map(len, pools.classes)
    return (
        f"{data.name}: {source.layout}; {train} training, {val} validation and {test} test classes "
        f"of {low if low == high else f'{low} to {high}'} examples, divided {split.how}"
    )


def _processed(name: str, source: Source, form: _Form) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the class and the example of every record; errors name the record."""
    number = 0
    try:
        for label, image in source.records():
            yield label, form.process(image)
            number += 1
    except Exception as error:  # A source may raise anything, and so may Pillow's plug-ins.
        raise ValueError(f"{name}, image {number}: {first_line(error)}") from error


def _decode_all(
    name: str, source: Source, form: _Form, file: pathlib.Path
) -> tuple[np.ndarray, np.ndarray]:
    """Examples [n, ...], mapped from a scratch file, and their classes [n].

    Files are written one image after another, not through a memory map: a full disk is an error
    then, where a map would end the process.
    """
    shape = (source.length, *form.shape)
    needed = math.prod(shape) * form.dtype.itemsize
    free = shutil.disk_usage(file.parent).free
    if needed > free:
        raise OSError(
            f"{shape[0]} images of {shape[1:]} need {needed:.1e} bytes; {free:.1e} are free"
        )
    labels = []
    images = _processed(name, source, form)
    with file.open("wb") as opened:
        for label, pixels in tqdm(images, "decoding", source.length, unit="image", disable=None):
            opened.write(pixels.data)
            labels.append(label)
    if not labels:
        raise ValueError(f"{name} has no images")
    decoded = np.memmap(file, form.dtype, "r", shape=(len(labels), *shape[1:]))
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
    form: _Form,
    chosen: ChosenSplit,
    folder: pathlib.Path,
) -> None:
    """Writes images.npy [classes, images, ...], train first, then val, then test."""
    images, labels = _decode_all(data.name, source, form, folder / "decoded")
    rows = _rows_by_class(labels)
    if chosen.listed and (left_out := check_listed(data.name, rows, chosen.listed)):
        _log.warning("%s: %s", data.name, left_out)
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
    split = chosen.divide(tuple(rows))
    ordered = [rows[name] for part in split for name in part]
    counts = [len(r) for r in ordered]
    shape = (len(counts), max(counts), *images.shape[1:])
    descr = np.lib.format.dtype_to_descr(form.dtype)
    header = {"descr": descr, "fortran_order": False, "shape": shape}
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
