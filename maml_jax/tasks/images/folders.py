"""Folders of class folders: which of their files are images, and why others are left out."""

import collections
import os
import pathlib
from collections.abc import Collection, Iterator

from PIL import Image

from maml_jax.tasks.images.decoding import image_formats

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


def list_images(
    root: pathlib.Path, *, follow_links: bool
) -> tuple[list[pathlib.Path], collections.Counter[str]]:
    """Lists the images in the class folders of `root`, at any depth.

    Args:
      root: a folder of class folders.
      follow_links: follow links that lead out of `root`; those that stay inside are followed.

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
        if not top.is_dir():
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
