"""Which split the settings and the data ask for."""

import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from maml_jax.tasks.images.records import Source
from maml_jax.tasks.images.sources import find_data_dir
from maml_jax.tasks.images.split_files import (
    apply_split,
    check_listed,
    read_parts,
    split_of_parts,
)
from maml_jax.tasks.images.splits import (
    FILE_PROTOCOLS,
    PROTOCOLS,
    Split,
    find_splits_dir,
    resolve_protocol,
    split_classes,
)
from maml_jax.tasks.settings import DataSettings


class ChosenSplit(NamedTuple):
    """How the classes are divided."""

    divide: Callable[[Sequence[str]], Split]
    key: list[object]  # all that it depends on: a seed that it ignores makes no second copy
    how: str  # in words
    listed: Mapping[str, str] = {}  # class -> part, if these are given class by class


def choose_split(data: DataSettings, source: Source) -> ChosenSplit:
    """The split of `data.split`, or that of the data.

    Raises:
      ValueError: the split is unknown, cannot be read, or does not fit the classes.
    """
    kind = data.name.partition(":")[0]
    protocol = resolve_protocol(kind, data.split, divided=bool(source.parts))
    if isinstance(protocol, pathlib.Path):
        parts = read_parts(protocol)
        listed = split_of_parts(data.name, parts, shared=False)
        return _listed(data, source, listed or {}, f"by {data.split}")
    if protocol != "own":
        return _computed(data, protocol)
    listed = split_of_parts(data.name, source.parts)
    if listed is not None:
        return _listed(data, source, listed, "as the data are")
    if data.split or kind in PROTOCOLS:
        raise ValueError(
            f"{data.name} is not divided into training, validation and test classes; give "
            "data.split=FILE, a .csv with the columns class,split"
        )
    random = _computed(data, "random")
    return random._replace(how=f"{random.how}, as {', '.join(source.parts)} have the same classes")


def _listed(data: DataSettings, source: Source, listed: Mapping[str, str], how: str) -> ChosenSplit:
    if source.classes is not None:  # else it is checked when the images are decoded
        check_listed(data.name, source.classes, listed)
    divide = partial(apply_split, split=listed)
    return ChosenSplit(divide, ["listed", sorted(listed.items())], how, listed)


def _computed(data: DataSettings, protocol: str) -> ChosenSplit:
    seed, fractions, folder = data.split_seed, data.split_fractions, None
    key = [protocol, seed, *(fractions if protocol == "random" else ())]
    if protocol in FILE_PROTOCOLS:
        folder = find_splits_dir(data.splits_dir, find_data_dir(data.dir))
        listings = sorted(f for f in folder.iterdir() if f.suffix in (".json", ".txt"))
        key = [protocol, {file.name: zlib.crc32(file.read_bytes()) for file in listings}]
    divide = partial(
        split_classes, protocol=protocol, seed=seed, fractions=fractions, splits_dir=folder
    )
    random = f"at random (data.split_seed={seed})"
    return ChosenSplit(divide, key, random if protocol == "random" else f"as {protocol}")
