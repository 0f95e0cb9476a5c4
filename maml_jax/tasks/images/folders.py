"""Folders of class folders: their layout, which files are images, and why others are left out."""

import collections
import logging
import os
import pathlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from PIL import Image

from maml_jax.tasks.images.cache import digest, expand_home
from maml_jax.tasks.images.decoding import image_formats
from maml_jax.tasks.images.records import (
    Record,
    Source,
    SourceRequest,
    list_files,
    read_image,
)
from maml_jax.tasks.images.splits import part_of

# Made by desktops, file servers and archivers, as are the hidden ones; in lower case.
_OF_THE_SYSTEM = (
    "$recycle.bin",
    "#recycle",
    "@eadir",
    "__macosx",
    "desktop.ini",
    "ehthumbs.db",
    "lost+found",
    "thumbs.db",
)
_log = logging.getLogger(__name__)


def list_images(
    root: pathlib.Path, *, follow_links: bool, beside: bool = False
) -> tuple[list[pathlib.Path], collections.Counter[str]]:
    """Lists the images in the class folders of `root`, at any depth.

    Args:
      root: a folder of class folders.
      follow_links: follow links that lead out of `root`; those that stay inside are followed.
      beside: also list images beside the class folders.

    Returns:
      The files in order, and how many files and folders are left out for which reason.
    """
    left_out: collections.Counter[str] = collections.Counter()
    formats = image_formats()
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in formats}
    inside = None if follow_links else root.resolve()
    files: list[pathlib.Path] = []

    def wanted(folder: os.PathLike[str] | str) -> Iterator[os.DirEntry[str]]:
        with os.scandir(folder) as entries:
            for entry in entries:
                reason = _why_left_out(entry, inside, suffixes)
                if reason:
                    left_out[reason] += 1
                else:
                    yield entry

    for top in wanted(root):
        if not top.is_dir() and not beside:
            left_out["images beside the class folders"] += 1
            continue
        waiting, listed = [top], set()
        while waiting:
            entry = waiting.pop()
            if not entry.is_dir():
                files.append(pathlib.Path(entry.path))
            elif (real := os.path.realpath(entry.path)) in listed:
                left_out["links to a folder that was listed before"] += 1
            else:
                listed.add(real)
                waiting.extend(wanted(entry))
    return sorted(files), left_out


def _why_left_out(
    entry: os.DirEntry[str], inside: pathlib.Path | None, suffixes: Collection[str]
) -> str:
    """The reason, empty for folders and images."""
    if entry.name.startswith("."):
        return "hidden files or folders"
    if entry.name.lower() in _OF_THE_SYSTEM:
        return "thumbnails or other files of the system"
    if entry.is_symlink():
        target = pathlib.Path(os.path.realpath(entry.path))
        if not target.exists():
            return "links to nowhere"
        if pathlib.Path(os.path.realpath(os.path.dirname(entry.path))).is_relative_to(target):
            return "links to a folder that they are in"
        if inside is not None and not target.is_relative_to(inside):
            return "links out of the folder (data.follow_links=True follows them)"
    if entry.is_dir():
        return ""
    if not entry.is_file():
        return "pipes, sockets or devices"
    suffix = os.path.splitext(entry.name)[1].lower()
    return "" if suffix in suffixes else f"files that are not images ({suffix or 'no suffix'})"


def describe(left_out: collections.Counter[str]) -> str:
    """What is left out in one line: "3 hidden files or folders, 1 links to nowhere"."""
    return ", ".join(f"{number} {reason}" for reason, number in left_out.most_common())


class ImageFile(NamedTuple):
    """An image before it is read."""

    path: pathlib.Path
    part: str  # train, val or test; empty in data that are not divided
    label: str  # the class, such as "Greek/character01"


def label_images(
    root: pathlib.Path,
    files: Sequence[pathlib.Path],
    class_depth: int,
    left_out: collections.Counter[str],
) -> tuple[list[ImageFile], str]:
    """Tells from their folders what class and part images belong to.

    Args:
      root: the folder that the files are in.
      files: from `list_images`.
      class_depth: number of folders that name a class; deeper ones do not matter.
      left_out: receives how many files are left out for which reason.

    Returns:
      The images of classes, and the layout in words.
    """
    paths = [file.relative_to(root).parts for file in files]
    divided = _is_divided(paths)
    images, deeper = [], set()
    for file, path in zip(files, paths, strict=True):
        part = part_of(path[0]) if divided else ""
        folders = path[divided:-1]
        if part is None:
            left_out["images beside the folders of training and test classes"] += 1
        elif len(folders) < class_depth:
            left_out["images above the class folders"] += 1
        else:
            images.append(ImageFile(file, part, "/".join(folders[:class_depth])))
            deeper.add(folders[: class_depth + 1] if len(folders) > class_depth else None)
    names = ["PATH", *["{train,val,test}"] * divided, *["GROUP"] * (class_depth - 1), "CLASS"]
    layout = "/".join([*names, "IMAGE"])
    if images and None not in deeper:
        layout += f" ({len(deeper)} folders in them; data.class_depth={class_depth + 1} makes them "
        layout += "the classes)"
    return images, layout


def _is_divided(paths: Sequence[tuple[str, ...]]) -> bool:
    """Whether the folders at the top are parts, with class folders, and not classes."""
    tops = {path[0] for path in paths}
    parts = {part_of(path[0]) for path in paths if len(path) > 2} - {None}
    return len(parts) > 1 or ("train" in parts and all(map(part_of, tops)))


def open_folder(request: SourceRequest) -> Source:
    """Opens folder:PATH, a folder of class folders.

    Raises:
      ValueError: it is no folder, cannot be read, or has no images in class folders.
    """
    name = f"{request.name}:{request.argument}"
    root = expand_home(request.argument, "data.name")
    if not root.is_dir():
        raise ValueError(f"{name} is not a folder; give a folder of class folders")
    try:
        files, left_out = list_images(root, follow_links=request.follow_links)
        images, layout = label_images(root, files, request.class_depth, left_out)
        listing = list_files([image.path for image in images], root)
    except OSError as error:
        raise ValueError(f"{name} cannot be read ({error}); allow reading it") from error
    summary = f"left out: {describe(left_out)}" if left_out else "it is empty"
    if not images:
        raise ValueError(f"{name} has no images in class folders ({layout}); {summary}")

    def records() -> Iterator[Record]:
        if left_out:
            _log.warning("%s: %s", name, summary)
        for image in images:
            yield image.label, read_image(image.path)

    return source_of_files(images, records, listing)._replace(layout=layout, deduplicate=True)


def source_of_files(
    images: Sequence[ImageFile], records: Callable[[], Iterable[Record]], listing: str
) -> Source:
    """The data set of these images."""
    parts: dict[str, set[str]] = {}
    for image in images:
        parts.setdefault(image.part, set()).add(image.label)
    return Source(
        {"files": listing, "labels": digest([image[1:] for image in images])},
        len(images),
        records,
        None,
        3,
        classes=set().union(*parts.values()),
        parts={} if "" in parts else parts,
    )
