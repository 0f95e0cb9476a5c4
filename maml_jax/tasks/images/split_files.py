"""Class splits that users write: one table of all classes, or one list for each part."""

import csv
import io
import json
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence

from maml_jax.errors import first_line
from maml_jax.tasks.images.splits import PARTS, Split, part_of

_FORMS = (
    "give a .csv with the columns class,split, a .json of {split: [classes]}, or a folder of lists "
    "train.txt, val.txt and test.txt (also .json, or .csv with a column class or label)"
)


def read_parts(path: pathlib.Path) -> dict[str, list[str]]:
    """Reads a split: part (train, val or test) -> classes.

    Args:
      path: a table, or a folder of lists; see the error message.

    Raises:
      ValueError: it cannot be read, a part has an unknown name, or a class is in two parts.
    """
    try:
        parts = _read_folder(path) if path.is_dir() else _read_table(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else first_line(error)
        raise ValueError(f"the split {path} cannot be read ({reason}); {_FORMS}") from error
    split_of_parts(f"the split {path}", parts, shared=False)
    return parts


def _read_table(file: pathlib.Path) -> dict[str, list[str]]:
    text = file.read_text(encoding="utf-8-sig")
    if file.suffix.lower() == ".json":
        pairs = [(c, part) for part, classes in json.loads(text).items() for c in classes]
    else:
        pairs = [(row["class"], row["split"]) for row in _rows(text)]
    parts: dict[str, list[str]] = {}
    for name, value in pairs:
        part = part_of(value)
        if part is None:
            raise ValueError(f"the class {name!r} is in {value!r}, not train, val or test")
        parts.setdefault(part, []).append(str(name))
    return parts


def _rows(text: str) -> list[dict[str, str]]:
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    rows = [{key: (value or "").strip() for key, value in row.items() if key} for row in reader]
    return [row for row in rows if any(row.values())]


def _read_folder(folder: pathlib.Path) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    for file in sorted(folder.iterdir()):
        part = part_of(re.split(r"[^a-z]+", file.stem.lower())[-1])
        if part is None or file.suffix.lower() not in (".txt", ".json", ".csv"):
            continue
        if part in parts:
            raise ValueError(f"{file.name} is its second list of {part} classes")
        parts[part] = _read_list(file)
    return parts


def _read_list(file: pathlib.Path) -> list[str]:
    text = file.read_text(encoding="utf-8-sig")
    if file.suffix.lower() == ".txt":
        return [line.strip() for line in text.splitlines() if line.strip()]
    if file.suffix.lower() == ".json":
        return [str(name) for name in list(json.loads(text))]
    rows = _rows(text)
    column = "class" if rows and "class" in rows[0] else "label"
    return list(dict.fromkeys(row[column] for row in rows))


def split_of_parts(
    name: str, parts: Mapping[str, Collection[str]], *, shared: bool = True
) -> dict[str, str] | None:
    """Class -> part.

    Args:
      name: of the data or file, for messages.
      parts: part -> classes.
      shared: whether the parts may have the same classes, as those of data for ordinary
        classification have, whose images then belong together.

    Returns:
      None if the parts do not divide the classes.

    Raises:
      ValueError: some classes are in two parts, or there are no training or no test classes.
    """
    train, *others = (set(parts.get(part, ())) for part in PARTS)
    if shared and (set(parts) <= {"train"} or all(other <= train for other in others)):
        return None
    for one, other in ((0, 1), (0, 2), (1, 2)):
        sets = [train, *others]
        if both := sorted(sets[one] & sets[other]):
            raise ValueError(
                f"{name} has {len(both)} classes in both {PARTS[one]} and {PARTS[other]} "
                f"({', '.join(both[:3])}); give each class one part"
                + (", or divide them anew with data.split=random" if shared else "")
            )
    for part, classes in zip(("train", "test"), (train, others[1]), strict=True):
        if not classes:
            raise ValueError(
                f"{name} has no {part} classes; add some"
                + (", or divide the classes anew with data.split=random" if shared else "")
            )
    return {c: part for part, classes in zip(PARTS, (train, *others), strict=True) for c in classes}


def apply_split(names: Sequence[str], split: Mapping[str, str]) -> Split:
    """The classes of each part, of those that are there."""
    return Split(*(tuple(sorted(n for n in names if split.get(n) == part)) for part in PARTS))


def check_listed(name: str, known: Collection[str], split: Mapping[str, str]) -> str:
    """Checks that the data have all classes of a split.

    Returns:
      Which classes the split leaves out, in one line; empty if none.

    Raises:
      ValueError: the data lack a class of the split.
    """
    if lacking := sorted(set(split) - set(known)):
        raise ValueError(
            f"{name} has no class {lacking[0]!r}, which its split lists ({len(lacking)} such "
            f"classes); its classes are called {', '.join(map(repr, sorted(known)[:3]))}"
        )
    left_out = sorted(set(known) - set(split))
    if not left_out:
        return ""
    return f"{len(left_out)} classes that are in no part are left out ({', '.join(left_out[:3])})"
