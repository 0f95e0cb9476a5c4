"""Examples that a user gives to a trained model: arrays, image files or images, and labels."""

import os
import pathlib
from collections.abc import Hashable, Sequence
from typing import Any, cast

import numpy as np
from PIL import Image

from maml_jax.errors import first_line
from maml_jax.run.problems import Inputs
from maml_jax.tasks.images.decoding import Layout, as_image, to_pixels

Classes = list[Hashable]  # names of the classes, in the order of the network's outputs
_IMAGES = (str, os.PathLike, Image.Image)


def _pixels(image: Any, layout: Layout) -> np.ndarray:
    if isinstance(image, Image.Image):
        return to_pixels(image, layout)
    path = pathlib.Path(image).expanduser()
    try:
        return to_pixels(as_image(path.read_bytes(), name=str(path)), layout)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({first_line(error)})") from error


def _is_image(value: Any) -> bool:
    return isinstance(value, _IMAGES)


def _decoded(inputs: Any, layout: Layout) -> Any:
    """Pixels in place of image files and images, in lists of any depth."""
    if _is_image(inputs):
        return _pixels(inputs, layout)
    if isinstance(inputs, list | tuple):
        return [_decoded(of, layout) for of in inputs]
    return inputs


def as_inputs(inputs: Any, form: Inputs) -> np.ndarray:
    """The inputs of one task [S, *x], or of several tasks [B, S, *x], as the network takes them.

    Image files and PIL images are processed as the data of the run were: made upright and opaque,
    converted to gray or RGB, resized and, where the data are inverted, inverted. Arrays are taken
    as they are; of one channel, or of one feature, the last axis may be left out.

    Raises:
      ValueError: a file is no image, or the arrays have another shape or dtype.
    """
    is_pixels = form.dtype == "uint8"
    if is_pixels:
        size, _, channels = form.shape
        inputs = _decoded(inputs, Layout(size, channels, form.invert))
    expected = f"[examples, {', '.join(map(str, form.shape))}]"
    fix = "give image files, PIL images or uint8 arrays" if is_pixels else "give arrays of numbers"
    try:
        array = np.asarray(inputs)
    except ValueError as error:
        raise ValueError(
            f"inputs cannot be stacked ({first_line(error)}); {fix}, the same number for each task"
        ) from error
    array = with_last_axis(array, form.shape)
    rank = len(form.shape)
    if array.ndim not in (rank + 1, rank + 2) or array.shape[-rank:] != form.shape:
        raise ValueError(
            f"inputs have the shape {list(array.shape)}; {fix} {expected}, with a leading axis for "
            f"several tasks{' (PIL images are resized)' if is_pixels else ''}"
        )
    if is_pixels and array.dtype != np.uint8:
        raise ValueError(f"inputs have the dtype {array.dtype}; {fix} with pixels of 0 to 255")
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_):
        raise ValueError(f"inputs have the dtype {array.dtype}; {fix} {expected}")
    return array.astype(form.dtype)


def as_tasks(inputs: Any, form: Inputs) -> tuple[list[np.ndarray], bool]:
    """The inputs of each task, [S, *x] where S may differ, and whether several tasks are given.

    Raises:
      ValueError: see `as_inputs`.
    """
    rank = len(form.shape)
    if isinstance(inputs, list | tuple) and len({_size_of_task(of, rank) for of in inputs}) > 1:
        return [as_inputs(of, form) for of in inputs], True
    array = as_inputs(inputs, form)
    batched = array.ndim == rank + 2
    return (list(array), True) if batched else ([array], False)


def _size_of_task(inputs: Any, rank: int) -> int:
    """The number of examples, or 0 if this is no task, but an example."""
    if isinstance(inputs, list | tuple):
        return len(inputs)
    return len(inputs) if not _is_image(inputs) and np.ndim(inputs) == rank + 1 else 0


def with_last_axis(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Adds an axis of one channel or feature if it was left out."""
    shape, rank = tuple(shape), len(shape)
    others = array.shape[max(array.ndim - rank + 1, 0) :]
    left_out = shape[-1] == 1 and others == shape[:-1] and array.shape[-rank:] != shape
    return array[..., None] if left_out else array


def as_classes(labels: Any) -> tuple[np.ndarray, Classes]:
    """Class indices int32 [S] of the labels of one task, and the classes as they first appear.

    Raises:
      ValueError: a label cannot be hashed.
    """
    names = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    try:
        classes = list(dict.fromkeys(names))
    except TypeError as error:
        raise ValueError(
            f"labels have an entry that cannot name a class ({error}); give names or numbers, one "
            "for each support example"
        ) from error
    index = {name: number for number, name in enumerate(classes)}
    return np.array([index[name] for name in names], np.int32), cast(Classes, classes)
