"""Image data sets by name, decoded once, cached on disk, split by class into pools.

omniglot, cifar_fs, fc100; tfds:NAME, any image-classification set of TFDS; folder:PATH, a folder of
class folders; npz:PATH, arrays `images` and `labels`; glyphs, characters of fonts, no download.
"""

import hashlib
import importlib.util
import io
import json
import logging
import os
import pathlib
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import PIL
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from maml_jax.tasks import glyphs
from maml_jax.tasks.episodes import Pool
from maml_jax.tasks.splits import (
    FILE_PROTOCOLS,
    FRACTIONS,
    Split,
    find_splits_dir,
    resolve_protocol,
    split_classes,
)

NAMES = ("omniglot", "cifar_fs", "fc100", "tfds:NAME", "folder:PATH", "npz:PATH", "glyphs")
CACHE_DIR_VARIABLE = "MAML_JAX_CACHE_DIR"
DATA_DIR_VARIABLE = "TFDS_DATA_DIR"
RESAMPLING = ("nearest", "box", "bilinear", "bicubic", "lanczos")
_CACHE_VERSION = 1  # raise it when the code makes other pools from the same key
_READ_AT_ONCE = 512  # records: one by one costs 2.5 times as much
_OMNIGLOT_SIZE = (1623, 20)  # characters, drawings of each

_BAD_ARCHIVE = (zipfile.BadZipFile, zlib.error)
_log = logging.getLogger(__name__)
PathLike = str | os.PathLike[str]
Record = tuple[str, Image.Image]  # name of the class, image


class Pools(NamedTuple):
    """A data set split by class. Images are read-only memory maps of the cache."""

    train: Pool
    val: Pool
    test: Pool
    classes: Split  # names, in the pools' order


class Source(NamedTuple):
    """A data set before it is decoded."""

    dataset: str  # what has split protocols of its own, or a generic name
    fingerprint: dict[str, Any]  # all that tells one version of the data from another
    length: int  # number of records
    records: Callable[[], Iterable[Record]]
    image_size: int | None  # where the images have one
    channels: int  # 1 or 3
    invert: bool = False


class _Layout(NamedTuple):
    """How decoded images are processed; part of the cache key."""

    image_size: int
    channels: int
    invert: bool
    resample: str


# Decoding


def as_image(value: bytes | np.ndarray, *, binary: bool = False) -> Image.Image:
    """An encoded file, or an array [H, W] or [H, W, C], as an 8-bit or 1-bit image.

    Args:
      value: what a data set stores.
      binary: the image has two levels. One-bit files come out of some decoders as {0, 1} and of
        others as {0, 255}; {0, 1} is then spread over the full range.
    """
    if isinstance(value, bytes):
        image: Image.Image = Image.open(io.BytesIO(value))
    else:
        array = value * np.uint8(255) if value.dtype == np.bool_ else value
        image = Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)
    if image.mode.startswith("I;16"):  # Pillow would clip 16 bits to 255, not scale them
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if binary and image.mode != "1":
        levels = np.asarray(image.convert("L"))
        return Image.fromarray(levels * np.uint8(255) if levels.max(initial=0) <= 1 else levels)
    return image


def _process(image: Image.Image, layout: _Layout) -> np.ndarray:
    """uint8 [size, size, C]. Images that are not square are squeezed, as in miniImageNet."""
    # First to gray or RGB: Pillow resizes one-bit and palette images by nearest neighbour only.
    image = image.convert("L" if layout.channels == 1 else "RGB")
    size = (layout.image_size, layout.image_size)
    if image.size != size:
        image = image.resize(size, Image.Resampling[layout.resample.upper()])
    pixels = np.asarray(image, np.uint8).reshape(*size, layout.channels)
    return 255 - pixels if layout.invert else pixels


# Sources


def find_data_dir(data_dir: PathLike | None) -> pathlib.Path:
    """TFDS' folder: the argument, TFDS_DATA_DIR, or TFDS' default."""
    folder = data_dir or os.environ.get(DATA_DIR_VARIABLE) or "~/tensorflow_datasets"
    return pathlib.Path(folder).expanduser()


def _tfds_builder(name: str, data_dir: pathlib.Path) -> Any:
    # TFDS takes seconds to import and most data sets do not need it.
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        if not builder.is_prepared():
            if importlib.util.find_spec("tensorflow") is None:
                raise ImportError("tensorflow")
            _log.warning("%s is not prepared under %s: preparing it", name, data_dir)
            _prepare(builder)
    except ImportError as error:
        raise ValueError(
            f"TFDS set {name!r} is not prepared under {data_dir} and preparing it needs "
            f"{error.name or error}: pip install -e '.[tensorflow]', or set the data dir "
            f"(or {DATA_DIR_VARIABLE}) to where it is prepared"
        ) from error
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(f"TFDS knows no data set {name!r} and {data_dir} has none") from error
    return builder


def _prepare(builder: Any) -> None:
    try:
        builder.download_and_prepare()
    except ImportError:
        raise
    except Exception as error:  # a download fails in as many ways as there are data sets
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"TFDS set {builder.name!r} could not be prepared: {reason[0]}") from error


def _tfds_rows(builder: Any, splits: Sequence[str], image_key: str) -> Iterator[tuple[str, Any]]:
    """(TFDS split, example) with the image still encoded, so that decoding is ours alone."""
    import tensorflow_datasets as tfds

    decoders = {image_key: tfds.decode.SkipDecoding()}
    for split in splits:
        source = builder.as_data_source(split=split, decoders=decoders)
        for start in range(0, len(source), _READ_AT_ONCE):
            rows = range(start, min(start + _READ_AT_ONCE, len(source)))
            for row in source.__getitems__(rows):
                yield split, row


def _tfds_identity(builder: Any, splits: Sequence[str]) -> dict[str, Any]:
    """Fingerprint and length of a Source."""
    parts = [builder.info.splits[split] for split in splits]
    paths = [pathlib.Path(path) for part in parts for path in part.filepaths]
    files = _listing(paths, pathlib.Path(builder.data_path))
    return {
        "fingerprint": {"tfds": builder.info.full_name, "files": files},
        "length": sum(part.num_examples for part in parts),
    }


def _listing(files: Iterable[pathlib.Path], root: pathlib.Path) -> str:
    stats = [(str(file.relative_to(root)), file.stat()) for file in files]
    return _digest([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def _omniglot(data_dir: pathlib.Path) -> Source:
    builder = _tfds_builder("omniglot", data_dir)
    alphabets = builder.info.features["alphabet"].names
    parts = {"train": "background", "test": "evaluation"}

    def records() -> Iterator[Record]:
        for split, row in _tfds_rows(builder, tuple(parts), "image"):
            character = f"character{int(row['alphabet_char_id']) + 1:02}"
            name = f"{parts[split]}/{alphabets[int(row['alphabet'])]}/{character}"
            yield name, as_image(row["image"], binary=True)

    return Source(
        dataset="omniglot",
        **_tfds_identity(builder, tuple(parts)),
        records=records,
        image_size=28,
        channels=1,
        invert=True,
    )


def _cifar100(dataset: str, data_dir: pathlib.Path) -> Source:
    builder = _tfds_builder("cifar100", data_dir)
    splits = ("train", "test")
    fine, coarse = (builder.info.features[key].names for key in ("label", "coarse_label"))

    def records() -> Iterator[Record]:
        for _, row in _tfds_rows(builder, splits, "image"):
            name = f"{coarse[int(row['coarse_label'])]}/{fine[int(row['label'])]}"
            yield name, as_image(row["image"])

    return Source(
        dataset=dataset,
        **_tfds_identity(builder, splits),
        records=records,
        image_size=32,
        channels=3,
    )


def _tfds(name: str, data_dir: pathlib.Path) -> Source:
    import tensorflow_datasets as tfds

    builder = _tfds_builder(name, data_dir)
    info = builder.info
    kinds = [info.features[key] for key in info.supervised_keys or ()]
    wanted = (tfds.features.Image, tfds.features.ClassLabel)
    if len(kinds) != 2 or not all(map(isinstance, kinds, wanted)):
        raise ValueError(f"TFDS set {name!r} is no image-classification set (no image and label)")
    image_key, label_key = info.supervised_keys
    labels = info.features[label_key]
    # Other splits (small1, corrupted, …) repeat images of these.
    standard = [split for split in ("train", "validation", "test") if split in info.splits]
    splits = standard or sorted(info.splits)
    height, width, channels = info.features[image_key].shape

    def records() -> Iterator[Record]:
        for _, row in _tfds_rows(builder, splits, image_key):
            if row[label_key] >= 0:  # −1 stands for unlabelled
                yield labels.int2str(int(row[label_key])), as_image(row[image_key])

    return Source(
        dataset="tfds",
        **_tfds_identity(builder, splits),
        records=records,
        image_size=height if height == width else None,
        channels=1 if channels == 1 else 3,
    )


def _folder(path: str) -> Source:
    root = pathlib.Path(path).expanduser()
    if not root.is_dir():
        raise ValueError(f"folder:{path} is not a folder; give a folder of class folders")
    readable = set(Image.registered_extensions())
    files = sorted(
        file
        for folder in root.iterdir()
        if folder.is_dir()
        for file in folder.rglob("*")
        if file.suffix.lower() in readable
    )
    if not files:
        raise ValueError(f"folder:{path} has no images in class folders (PATH/CLASS/IMAGE)")

    def records() -> Iterator[Record]:
        for file in files:
            try:
                image = as_image(file.read_bytes())
                image.load()
            except (UnidentifiedImageError, OSError) as error:
                raise ValueError(f"{file} is not a readable image; mend or remove it") from error
            yield file.relative_to(root).parts[0], image

    return Source("folder", {"files": _listing(files, root)}, len(files), records, None, 3)


def _npz(path: str) -> Source:
    file = pathlib.Path(path).expanduser()
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (OSError, EOFError, KeyError, TypeError, ValueError, *_BAD_ARCHIVE) as error:
        raise ValueError(
            f"npz:{path} cannot be read ({error}); give an .npz with images and labels"
        ) from error
    grid = images[..., None] if images.ndim == 3 else images
    valid = grid.dtype in (np.uint8, np.bool_) and grid.ndim == 4 and grid.shape[3] in (1, 3)
    if not valid or labels.shape != grid.shape[:1]:
        raise ValueError(
            f"npz:{path}: images {images.dtype}{list(images.shape)} and labels "
            f"{list(labels.shape)} must be uint8 [n, H, W, C] with C 1 or 3, and [n]"
        )

    def records() -> Iterator[Record]:
        for image, label in zip(grid, labels, strict=True):
            yield str(label), as_image(image)

    height, width, channels = grid.shape[1:]
    square = height if height == width else None
    crc = _crc32(grid), _crc32(labels)
    return Source("npz", {"crc32": crc}, len(labels), records, square, channels)


def _glyphs(image_size: int | None, seed: int) -> Source:
    size = image_size or glyphs.IMAGE_SIZE
    return Source(
        dataset="glyphs",
        fingerprint={**glyphs.fingerprint(), "seed": seed, "image_size": size},
        length=glyphs.LENGTH,
        records=partial(glyphs.render_all, size, seed),
        image_size=size,
        channels=1,
    )


def _open_source(name: str, data_dir: pathlib.Path, image_size: int | None, seed: int) -> Source:
    kind, _, rest = name.partition(":")
    if kind in ("cifar_fs", "fc100") and not rest:
        return _cifar100(kind, data_dir)
    if name == "omniglot":
        return _omniglot(data_dir)
    if name == "glyphs":
        return _glyphs(image_size, seed)
    if kind == "tfds" and rest:
        return _tfds(rest, data_dir)
    if kind == "folder" and rest:
        return _folder(rest)
    if kind == "npz" and rest:
        return _npz(rest)
    raise ValueError(f"data name {name!r} is unknown; choose from {', '.join(NAMES)}")


# Building


def _decode_all(
    source: Source, layout: _Layout, folder: pathlib.Path
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, H, W, C] (in a scratch file) and names of their classes [n]."""
    shape = (source.length, layout.image_size, layout.image_size, layout.channels)
    images = np.lib.format.open_memmap(folder / "decoded.npy", "w+", np.uint8, shape)
    names = []
    progress = tqdm(source.records(), "decoding", source.length, unit="image", disable=None)
    for i, (name, image) in enumerate(progress):
        images[i] = _process(image, layout)
        names.append(name)
    return images[: len(names)], np.array(names, np.str_)


def _rows_by_class(names: np.ndarray, min_images: int) -> dict[str, np.ndarray]:
    order = np.argsort(names, kind="stable")
    classes, starts = np.unique(names[order], return_index=True)
    rows = np.split(order, starts[1:])
    return {str(c): r for c, r in zip(classes, rows, strict=True) if len(r) >= min_images}


def _check_omniglot(rows: dict[str, np.ndarray]) -> None:
    classes, each = _OMNIGLOT_SIZE
    if len(rows) != classes or any(len(r) != each for r in rows.values()):
        raise ValueError(
            f"omniglot has {len(rows)} characters, not {classes} with {each} drawings each; "
            "its prepared data is incomplete: prepare it again"
        )


def _write_pools(
    source: Source,
    layout: _Layout,
    split_names: Callable[[Sequence[str]], Split],
    min_images: int,
    folder: pathlib.Path,
) -> dict[str, Any]:
    """Writes images.npy [classes, images, H, W, C], train first, then val, then test."""
    images, names = _decode_all(source, layout, folder)
    rows = _rows_by_class(names, min_images)
    if source.dataset == "omniglot":
        _check_omniglot(rows)
    if not rows:
        raise ValueError(f"no class has min_images={min_images} images; lower it")
    split = split_names(tuple(rows))
    counts = [len(rows[name]) for part in split for name in part]
    shape = (len(counts), max(counts), *images.shape[1:])
    pooled = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
    for i, name in enumerate(name for part in split for name in part):
        pooled[i, : len(rows[name])] = images[rows[name]]
    pooled.flush()
    (folder / "decoded.npy").unlink()
    return {"split": split, "counts": counts, "crc32": _crc32(pooled)}


# Cache


def find_cache_dir(cache_dir: PathLike | None) -> pathlib.Path:
    """Where processed pools live: the argument, MAML_JAX_CACHE_DIR, or ~/.cache/maml_jax."""
    folder = cache_dir or os.environ.get(CACHE_DIR_VARIABLE) or "~/.cache/maml_jax"
    return pathlib.Path(folder).expanduser()


def _crc32(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).data)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _read_pools(folder: pathlib.Path) -> Pools:
    """Raises ValueError, OSError or KeyError where the cache entry is damaged."""
    meta = json.loads((folder / "meta.json").read_text())
    images = np.load(folder / "images.npy", mmap_mode="r")
    if _crc32(images) != meta["crc32"]:
        raise ValueError("checksum differs")
    counts = np.array(meta["counts"], np.int32)
    split = Split(*map(tuple, meta["split"]))
    stops = np.cumsum([len(part) for part in split])
    train, val, test = (
        Pool(images[stop - len(part) : stop], counts[stop - len(part) : stop])
        for part, stop in zip(split, stops, strict=True)
    )
    return Pools(train, val, test, split)


def _cached(folder: pathlib.Path, write: Callable[[pathlib.Path], dict[str, Any]]) -> Pools:
    """Reads a cache entry, and makes it where absent or damaged: whole or not at all."""
    if folder.is_dir():
        try:
            return _read_pools(folder)
        except (ValueError, OSError, EOFError, KeyError, TypeError) as error:
            _log.warning("the cache entry %s is damaged (%s): building it again", folder, error)
            shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        (scratch / "meta.json").write_text(json.dumps(write(scratch)))
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was first, with the same content
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return _read_pools(folder)


# Loading


def load_pools(
    name: str,
    *,
    split: str | None = None,
    seed: int = 0,
    split_fractions: Sequence[float] = FRACTIONS,
    image_size: int | None = None,
    channels: int | None = None,
    invert: bool | None = None,
    resample: str = "lanczos",
    min_images: int = 1,
    data_dir: PathLike | None = None,
    splits_dir: PathLike | None = None,
    cache_dir: PathLike | None = None,
) -> Pools:
    """Loads a data set by name and splits its classes.

    Args:
      name: `omniglot`, `cifar_fs`, `fc100`, `tfds:NAME`, `folder:PATH`, `npz:PATH` or `glyphs`.
      split: omniglot: `finn` (default), `vinyals` or `lake`; None is the data set's default.
      seed: of random class splits, and of the glyphs' jitter.
      split_fractions: shares (train, val, test) of the classes, for data without a protocol.
      image_size: pixels, height and width; None keeps the data's own (Omniglot 28, CIFAR 32).
      channels: 1 gray, 3 RGB; None keeps the data's own (folders: 3).
      invert: 255 − pixel; None is True for Omniglot (ink is 255), False elsewhere.
      resample: Pillow's filter; `nearest` is what Pillow makes of a one-bit image.
      min_images: classes with fewer images are left out.
      data_dir: TFDS' folder; None takes TFDS_DATA_DIR, else TFDS' default.
      splits_dir: of split files; None takes MAML_JAX_SPLITS_DIR, else `splits` beside data_dir.
      cache_dir: of processed pools; None takes MAML_JAX_CACHE_DIR, else ~/.cache/maml_jax.

    Returns:
      Pools of numpy arrays, memory-mapped from the cache.

    Raises:
      ValueError: unknown name or option, or data that is absent, unreadable or incomplete.
    """
    folder = find_data_dir(data_dir)
    protocol = resolve_protocol(name.partition(":")[0], split)
    source = _open_source(name, folder, image_size, seed)
    layout = _make_layout(source, name, image_size, channels, invert, resample)
    files = find_splits_dir(splits_dir, folder) if protocol in FILE_PROTOCOLS else None
    split_names = partial(
        split_classes, protocol=protocol, seed=seed, fractions=split_fractions, splits_dir=files
    )
    key = {
        "version": _CACHE_VERSION,
        "pillow": PIL.__version__,  # decodes and resizes
        "name": name,
        "source": source.fingerprint,
        "layout": layout,
        "split": _split_key(protocol, seed, split_fractions, files),
        "min_images": min_images,
    }
    entry = f"{re.sub(r'[^A-Za-z0-9]+', '_', name)[-40:]}-{_digest(key)}"
    write = partial(_write_pools, source, layout, split_names, min_images)
    return _cached(find_cache_dir(cache_dir) / entry, write)


def _split_key(
    protocol: str, seed: int, fractions: Sequence[float], files: pathlib.Path | None
) -> list[Any]:
    """All that the split depends on and nothing else: a seed it ignores makes no second copy."""
    if files is not None:
        listings = sorted(f for f in files.iterdir() if f.suffix in (".json", ".txt"))
        return [protocol, {file.name: zlib.crc32(file.read_bytes()) for file in listings}]
    return [protocol, seed, *(fractions if protocol == "random" else ())]


def _make_layout(
    source: Source,
    name: str,
    image_size: int | None,
    channels: int | None,
    invert: bool | None,
    resample: str,
) -> _Layout:
    size = image_size or source.image_size
    if size is None or size < 1:
        raise ValueError(f"{name} has images of many sizes; give image_size, for example 84")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels={channels}: use 1 (gray) or 3 (RGB)")
    if resample not in RESAMPLING:
        raise ValueError(f"resample={resample!r} is unknown; choose from {', '.join(RESAMPLING)}")
    inverted = source.invert if invert is None else invert
    return _Layout(size, channels or source.channels, inverted, resample)
