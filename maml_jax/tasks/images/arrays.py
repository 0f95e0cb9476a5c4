"""Images or features in arrays, and .npz files of them."""

from collections.abc import Iterator

import numpy as np

from maml_jax.errors import first_line
from maml_jax.tasks.images.cache import crc32, expand_home
from maml_jax.tasks.images.decoding import as_image
from maml_jax.tasks.images.records import Record, Source, SourceRequest


def source_of_arrays(images: np.ndarray, labels: np.ndarray) -> Source:
    """Makes a data set of arrays.

    Args:
      images: uint8 or bool [n, H, W] or [n, H, W, C], C being 1 or 3; or features, float [n, d].
      labels: [n], numbers or strings that name the classes.

    Raises:
      ValueError: the arrays have other types or shapes, or the features are not finite.
    """
    if images.ndim == 2 and np.issubdtype(images.dtype, np.floating):
        return _source_of_features(images, labels)
    grid = images[..., None] if images.ndim == 3 else images
    valid = grid.dtype in (np.uint8, np.bool_) and grid.ndim == 4 and grid.shape[3] in (1, 3)
    if not valid or 0 in grid.shape[1:] or labels.shape != grid.shape[:1]:
        raise ValueError(
            f"images {images.dtype}{list(images.shape)} and labels {list(labels.shape)} must be "
            "uint8 [n, H, W, C] with C 1 or 3 (or features, float [n, d]), and [n]"
        )

    def records() -> Iterator[Record]:
        for image, label in zip(grid, labels, strict=True):
            yield str(label), as_image(image)

    height, width, channels = grid.shape[1:]
    return Source(
        fingerprint={"crc32": (crc32(grid), crc32(labels))},
        length=len(labels),
        records=records,
        image_size=height if height == width else None,
        channels=channels,
        classes=set(map(str, labels.tolist())),
        layout=f"images {images.dtype}{list(images.shape)}",
    )


def _source_of_features(features: np.ndarray, labels: np.ndarray) -> Source:
    number, size = features.shape
    if not features.size or labels.shape != (number,):
        raise ValueError(
            f"features {list(features.shape)} and labels {list(labels.shape)} must be [n, d] and "
            "[n], and not empty"
        )
    with np.errstate(over="ignore"):
        values = features.astype(np.float32)
    if bad := np.flatnonzero(~np.isfinite(values).all(1)).tolist():
        raise ValueError(f"row {bad[0]} of the features is not finite in float32; leave it out")

    def records() -> Iterator[Record]:
        for row, label in zip(values, labels, strict=True):
            yield str(label), row

    return Source(
        fingerprint={"crc32": (crc32(values), crc32(labels))},
        length=number,
        records=records,
        image_size=None,
        channels=0,
        features=size,
        classes=set(map(str, labels.tolist())),
        layout=f"features {features.dtype}{list(features.shape)}, of mean {values.mean():.3g} and "
        f"standard deviation {values.std():.3g}",
    )


def open_npz(request: SourceRequest) -> Source:
    """Opens npz:PATH, arrays `images` (or `features`) and `labels`.

    Raises:
      ValueError: the file cannot be read, or its arrays have other types or shapes.
    """
    name = f"npz:{request.argument}"
    file = expand_home(request.argument, "data.name")
    try:
        if file.exists() and not file.is_file():
            raise ValueError("it is no file")
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            images = arrays["features" if "features" in arrays else "images"]
            labels = arrays["labels"]
    except Exception as error:  # Damage may turn up anywhere in zip, zlib, numpy or its headers.
        raise ValueError(
            f"{name} cannot be read ({first_line(error)}); give an .npz with images (or features) "
            "and labels"
        ) from error
    try:
        return source_of_arrays(images, labels)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
