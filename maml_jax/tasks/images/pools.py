"""Image data sets by name, as pools of training, validation and test classes."""

import dataclasses
import json
import pathlib
import re
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import PIL
from tqdm import tqdm

from maml_jax.settings import check_value
from maml_jax.tasks.episodes import Pool
from maml_jax.tasks.images.cache import crc32, digest, find_cache_dir, read_or_write
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

_CACHE_VERSION = 1  # Raise it when the code makes other pools from the same key.


class Pools(NamedTuple):
    """A data set split by class. Images are read-only memory maps of the cache."""

    train: Pool
    val: Pool
    test: Pool
    classes: Split  # names, in the order of the pools


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
        data.name, data_dir=folder, image_size=data.image_size, seed=data.split_seed
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
    return read_or_write(find_cache_dir(data.cache_dir) / entry, _read_pools, write)


def _choose_layout(data: DataSettings, source: Source) -> Layout:
    size = data.image_size or source.image_size
    if size is None:
        raise ValueError(f"{data.name} has images of many sizes; set image_size, for example to 84")
    invert = {"auto": source.invert, "yes": True, "no": False}[data.invert]
    return Layout(size, data.channels or source.channels, invert)


def _split_key(
    protocol: str, seed: int, fractions: Sequence[float], files: pathlib.Path | None
) -> list[object]:
    """What the split depends on, and nothing else: a seed it ignores makes no second copy."""
    if files is not None:
        listings = sorted(f for f in files.iterdir() if f.suffix in (".json", ".txt"))
        return [protocol, {file.name: zlib.crc32(file.read_bytes()) for file in listings}]
    return [protocol, seed, *(fractions if protocol == "random" else ())]


def _decode_all(
    source: Source, layout: Layout, folder: pathlib.Path
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, H, W, C], in a scratch file, and the names of their classes [n]."""
    shape = (source.length, layout.image_size, layout.image_size, layout.channels)
    images = np.lib.format.open_memmap(folder / "decoded.npy", "w+", np.uint8, shape)
    names = []
    progress = tqdm(source.records(), "decoding", source.length, unit="image", disable=None)
    for i, (name, image) in enumerate(progress):
        images[i] = to_pixels(image, layout)
        names.append(name)
    return images[: len(names)], np.array(names, np.str_)


def _rows_by_class(names: np.ndarray, min_images: int) -> dict[str, np.ndarray]:
    order = np.argsort(names, kind="stable")
    classes, starts = np.unique(names[order], return_index=True)
    rows = np.split(order, starts[1:])
    return {str(c): r for c, r in zip(classes, rows, strict=True) if len(r) >= min_images}


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
    images, names = _decode_all(source, layout, folder)
    rows = _rows_by_class(names, data.min_images)
    if not rows:
        raise ValueError(f"no class has min_images={data.min_images} images; lower it")
    if source.complete is not None:
        _check_complete(data.name, rows, *source.complete)
    split = split_names(tuple(rows))
    ordered = [rows[name] for part in split for name in part]
    counts = [len(r) for r in ordered]
    shape = (len(counts), max(counts), *images.shape[1:])
    pooled = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
    for i, r in enumerate(ordered):
        pooled[i, : len(r)] = images[r]
    pooled.flush()
    (folder / "decoded.npy").unlink()
    meta = {"split": split, "counts": counts, "crc32": crc32(pooled)}
    (folder / "meta.json").write_text(json.dumps(meta))


def _read_pools(folder: pathlib.Path) -> Pools:
    meta = json.loads((folder / "meta.json").read_text())
    images = np.load(folder / "images.npy", mmap_mode="r")
    if crc32(images) != meta["crc32"]:
        raise ValueError("checksum differs")
    counts = np.array(meta["counts"], np.int32)
    split = Split(*map(tuple, meta["split"]))
    stops = np.cumsum([len(part) for part in split])
    train, val, test = (
        Pool(images[stop - len(part) : stop], counts[stop - len(part) : stop])
        for part, stop in zip(split, stops, strict=True)
    )
    return Pools(train, val, test, split)
