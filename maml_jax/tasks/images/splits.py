"""Class splits: which classes are used for meta-training, validation and test.

Classes are named by paths: "background/Greek/character01" in Omniglot, "trees/oak_tree" in
CIFAR-100.
"""

import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from maml_jax.errors import first_line

SPLITS_DIR_VARIABLE = "MAML_JAX_SPLITS_DIR"
FRACTIONS = (0.64, 0.16, 0.20)
_FINN = (1100, 100, 423)
_LAKE_VALIDATION_ALPHABETS = 5
PARTS = ("train", "val", "test")
_NAMES_OF_PARTS = {
    "train": "train",
    "val": "val",
    "validation": "val",
    "valid": "val",
    "test": "test",
}


class Split(NamedTuple):
    """Names of the classes of each part."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]


def part_of(name: str) -> str | None:
    """The part that a file, folder or column calls so: train, val or test; None if it is none."""
    return _NAMES_OF_PARTS.get(name.strip().lower())


def random_split(names: Sequence[str], sizes: Sequence[int], seed: int) -> Split:
    """Shuffles the sorted names by a seed and divides them into parts of these sizes.

    Raises:
      ValueError: the sizes do not add up to the number of names.

    Example:
      >>> from maml_jax.tasks.images.splits import random_split
      >>> [len(part) for part in random_split([f"{i:02}" for i in range(10)], (6, 2, 2), seed=0)]
      [6, 2, 2]
    """
    if sum(sizes) != len(names):
        raise ValueError(f"split sizes {tuple(sizes)} do not add up to the {len(names)} classes")
    names = sorted(names)
    order = np.random.default_rng(seed).permutation(len(names))
    parts = np.split(order, np.cumsum(sizes)[:-1])
    return Split(*(tuple(sorted(names[i] for i in part)) for part in parts))


def fraction_split(names: Sequence[str], fractions: Sequence[float], seed: int) -> Split:
    """Splits the names at random by shares of them.

    The first two shares are rounded to whole classes, and the test part gets the rest.

    Raises:
      ValueError: there are not three shares ≥ 0 that add up to 1.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(
            f"split_fractions={tuple(fractions)} is not allowed; use three shares (train, val, "
            "test) that add up to 1"
        )
    train, until_val = (round(x * len(names)) for x in np.cumsum(fractions)[:2])
    return random_split(names, (train, until_val - train, len(names) - until_val), seed)


def finn_split(names: Sequence[str], seed: int) -> Split:
    """Omniglot as in MAML: 1100, 100 and 423 of the 1623 characters at random."""
    return random_split(names, _FINN, seed)


def lake_split(names: Sequence[str], seed: int) -> Split:
    """Omniglot's own split: training on the background set, test on the evaluation set.

    Lake et al. name no validation classes. They are the characters of 5 of the 30 background
    alphabets, drawn by the seed, so that validation meets new alphabets as the test does.
    """
    background = [name for name in names if name.startswith("background/")]
    alphabets = sorted({_group(name) for name in background})
    held_out = set(
        np.random.default_rng(seed).choice(alphabets, _LAKE_VALIDATION_ALPHABETS, replace=False)
    )
    return Split(
        tuple(sorted(name for name in background if _group(name) not in held_out)),
        tuple(sorted(name for name in background if _group(name) in held_out)),
        tuple(sorted(set(names) - set(background))),
    )


def _group(name: str) -> str:
    return name.split("/")[-2]


def find_splits_dir(splits_dir: str, data_dir: pathlib.Path) -> pathlib.Path:
    """The folder of split files.

    It is the argument if not empty, or else MAML_JAX_SPLITS_DIR, or else `splits` beside the data.

    Raises:
      ValueError: it does not exist.
    """
    variable = os.environ.get(SPLITS_DIR_VARIABLE)
    beside = data_dir.absolute().parent / "splits"
    folder = pathlib.Path(os.path.expanduser(splits_dir or variable or beside))
    if not folder.is_dir():
        raise ValueError(
            f"no folder of split files: splits_dir={splits_dir!r}, "
            f"{SPLITS_DIR_VARIABLE}={variable!r}, beside the data {beside}; set one of them to it"
        )
    return folder


def _read(file: pathlib.Path) -> str:
    if not file.is_file():
        raise ValueError(
            f"the split file {file} is missing; set splits_dir to a folder that has it"
        )
    return file.read_text(encoding="utf-8")


def _listed(names: Sequence[str], wanted: Sequence[set[str]], label: Callable[[str], str]) -> Split:
    """Splits the classes by the labels that each part lists; both must have the same labels."""
    labels = {label(name) for name in names}
    listed = {entry for part in wanted for entry in part}
    unknown, left_out = listed - labels, labels - listed
    if unknown or left_out:
        raise ValueError(
            f"split files and data disagree: the data lack {sorted(unknown)[:3]}, the files lack "
            f"{sorted(left_out)[:3]}; use the split files of this data set"
        )
    return Split(*(tuple(sorted(n for n in names if label(n) in part)) for part in wanted))


def _vinyals(names: Sequence[str], folder: pathlib.Path) -> Split:
    def characters(part: str) -> set[str]:
        listing = json.loads(_read(folder / f"omniglot_{part}.json"))
        return {
            f"{subset}/{alphabet}/{character}"
            for subset, alphabets in listing.items()
            for alphabet, rows in alphabets.items()
            for character in rows
        }

    return _listed(names, [characters(part) for part in PARTS], lambda name: name)


def _cifar_fs(names: Sequence[str], folder: pathlib.Path) -> Split:
    wanted = [set(_read(folder / f"cifar_fs_{part}.txt").split()) for part in PARTS]
    return _listed(names, wanted, lambda name: name.split("/")[-1])


def _fc100(names: Sequence[str], folder: pathlib.Path) -> Split:
    files = [folder / f"cifar100_fc100_{part}.json" for part in PARTS]
    return _listed(names, [set(json.loads(_read(file))) for file in files], _group)


_SEEDED = {"finn": finn_split, "lake": lake_split}
_FROM_FILES = {"vinyals": _vinyals, "cifar_fs": _cifar_fs, "fc100": _fc100}
FILE_PROTOCOLS = tuple(_FROM_FILES)
# The first protocol of a data set is its default. Data sets that are not here have `own`, if they
# are divided, and `random`.
PROTOCOLS = {
    "omniglot": ("finn", "vinyals", "lake"),
    "cifar_fs": ("cifar_fs",),
    "fc100": ("fc100",),
    "mini_imagenet": ("own",),
    "tiered_imagenet": ("own",),
}


def resolve_protocol(dataset: str, split: str, *, divided: bool = False) -> str | pathlib.Path:
    """The named protocol, the data set's default if the name is empty, or a file or folder.

    Args:
      dataset: its name, up to the colon.
      split: name of a protocol, or path of a split (`maml_jax.tasks.images.split_files`).
      divided: whether the data are divided into training, validation and test classes.

    Raises:
      ValueError: the data set has no such protocol, and there is no such file.
    """
    allowed = PROTOCOLS.get(dataset) or (*["own"] * divided, "random")
    if not split or split in allowed:
        return split or allowed[0]
    path = pathlib.Path(os.path.expanduser(split))
    if not path.exists():
        raise ValueError(
            f"split={split!r} is unknown for {dataset}, and no such file; choose from "
            f"{', '.join(allowed)}, or give a .csv with the columns class,split"
        )
    return path


def split_classes(
    names: Sequence[str],
    protocol: str,
    *,
    seed: int = 0,
    fractions: Sequence[float] = FRACTIONS,
    splits_dir: pathlib.Path | None = None,
) -> Split:
    """Divides class names into meta-training, validation and test.

    Args:
      names: the names of all classes.
      protocol: `finn` or `lake`, which are seeded; `vinyals`, `cifar_fs` or `fc100`, which are
        read from files; or `random`.
      seed: the seed of the random ones.
      fractions: the shares of `random`.
      splits_dir: the folder of the split files.

    Returns:
      Disjoint parts.

    Raises:
      ValueError: the names do not fit the protocol, or a file is missing.
    """
    if protocol in _FROM_FILES:
        if splits_dir is None:
            raise ValueError(f"the split {protocol!r} is read from files; give splits_dir")
        try:
            return _FROM_FILES[protocol](names, splits_dir)
        except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError) as error:
            raise ValueError(
                f"the files of the split {protocol!r} in {splits_dir} are damaged "
                f"({first_line(error)}); download them again"
            ) from error
    if protocol in _SEEDED:
        return _SEEDED[protocol](names, seed)
    return fraction_split(names, fractions, seed)
