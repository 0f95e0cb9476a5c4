"""Images in Parquet files, as the Hugging Face Hub has them."""

import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from maml_jax.errors import first_line
from maml_jax.tasks.images.cache import digest
from maml_jax.tasks.images.decoding import as_image
from maml_jax.tasks.images.records import Record, Source, list_files
from maml_jax.tasks.images.splits import part_of

_IMAGES, _LABELS = ("image", "img"), ("label", "labels", "class")
_READ_AT_ONCE = 64  # images


class _Table(NamedTuple):
    path: pathlib.Path
    part: str  # train, val or test; empty if its path does not tell
    image: str  # the column
    label: str  # the column
    names: Sequence[str] | None  # of the classes, if the labels are numbers with names
    labels: list[Any]  # one for each row


def source_of_parquet(name: str, files: Sequence[pathlib.Path], root: pathlib.Path) -> Source:
    """The data set of some files.

    Args:
      name: of the data set, for messages.
      files: with a column of encoded images and a column of labels; a folder or the name of a file
        tells its part, as in train-00000-of-00003.parquet.
      root: a folder that the files are in.

    Raises:
      ValueError: pyarrow is not installed, a file cannot be read, or it has other columns.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ValueError(
            f"{name} has Parquet files, and reading them needs pyarrow: pip install pyarrow"
        ) from error

    def read(path: pathlib.Path) -> _Table:
        try:
            with pq.ParquetFile(path) as file:
                return _describe(path, root, file)
        except Exception as error:  # pyarrow raises errors of its own
            raise ValueError(f"{path} cannot be read ({first_line(error)})") from error

    tables = [read(path) for path in files]
    class_of = _ClassNames(tables)
    parts: dict[str, set[str]] = {}
    for table in tables:
        known = {class_of(table, label) for label in table.labels} - {None}
        parts.setdefault(table.part, set()).update(filter(None, known))

    def records() -> Iterator[Record]:
        for table in tables:
            try:
                with pq.ParquetFile(table.path) as file:
                    columns = [table.image, table.label]
                    for batch in file.iter_batches(_READ_AT_ONCE, columns=columns):
                        yield from _records(table, batch.to_pylist(), class_of)
            except OSError as error:
                raise ValueError(f"{table.path} cannot be read ({first_line(error)})") from error

    labels = digest([(table.part, table.names, table.labels) for table in tables])
    return Source(
        {"files": list_files(files, root), "labels": labels},
        sum(len(table.labels) for table in tables),
        records,
        None,
        3,
        classes=set().union(*parts.values()),
        parts={} if "" in parts else parts,
        layout=f"{len(files)} Parquet files",
    )


def _describe(path: pathlib.Path, root: pathlib.Path, file: Any) -> _Table:
    schema = file.schema_arrow
    image, label = (next((c for c in of if c in schema.names), None) for of in (_IMAGES, _LABELS))
    if image is None or label is None:
        raise ValueError(f"it has the columns {', '.join(schema.names)}, not image and label")
    about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = about.get("info", {}).get("features", {}).get(label, {}).get("names")
    words = re.findall("[a-z]+", str(path.relative_to(root)).lower())
    part = next(filter(None, map(part_of, words)), "")
    labels = file.read(columns=[label]).column(label).to_pylist()
    return _Table(path, part, image, label, names, labels)


class _ClassNames:
    """The class of a label; None if an image has none.

    Numbers without names that begin at 0 in parts with different numbers of classes are counted
    anew in each part, so that equal numbers are different classes.
    """

    def __init__(self, tables: Sequence[_Table]) -> None:
        labels: dict[str, set[Any]] = {}
        for table in tables:
            labels.setdefault(table.part, set()).update(table.labels)
        sizes = {len(of) for of in labels.values()}
        self._by_part = (
            len(labels) > 1
            and len(sizes) == len(labels)
            and all(table.names is None for table in tables)
            and all(of == set(range(len(of))) for of in labels.values())
        )

    def __call__(self, table: _Table, label: Any) -> str | None:
        if label is None or (isinstance(label, int) and label < 0):  # as in test sets of a contest
            return None
        if table.names is not None and isinstance(label, int):
            return str(table.names[label])
        return f"{table.part}/{label}" if self._by_part else str(label)


def _records(table: _Table, rows: list[dict[str, Any]], class_of: _ClassNames) -> Iterator[Record]:
    for row in rows:
        image, name = row[table.image], class_of(table, row[table.label])
        content = image["bytes"] if isinstance(image, dict) else image
        if not isinstance(content, bytes):
            raise ValueError(f"{table.path} has no encoded images in the column {table.image!r}")
        if name is not None:
            yield name, as_image(content, name=f"an image of {table.path}")
