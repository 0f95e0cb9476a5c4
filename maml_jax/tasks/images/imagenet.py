"""miniImageNet and tieredImageNet, in the layouts that are in use.

Images with train.csv, val.csv and test.csv (columns filename,label) as of Ravi and Larochelle;
Parquet files of the Hugging Face Hub; class folders, in folders train, val and test or not.
"""

import csv
import pathlib
from collections.abc import Callable, Iterator
from functools import partial

from maml_jax.tasks.images.cache import expand_home
from maml_jax.tasks.images.folders import ImageFile, open_folder, source_of_files
from maml_jax.tasks.images.parquet import source_of_parquet
from maml_jax.tasks.images.records import Record, Source, SourceRequest, list_files, read_image
from maml_jax.tasks.images.splits import PARTS, part_of

_SIZE = 84  # pixels, as published
_CLASSES = {"mini_imagenet": (64, 16, 20), "tiered_imagenet": (351, 97, 160)}
# The split of Ravi and Larochelle 2017, for data that are not divided as it is.
_MINI_IMAGENET = {
    "train": """
        n01532829 n01558993 n01704323 n01749939 n01770081 n01843383 n01910747 n02074367 n02089867
        n02091831 n02101006 n02105505 n02108089 n02108551 n02108915 n02111277 n02113712 n02120079
        n02165456 n02457408 n02606052 n02687172 n02747177 n02795169 n02823428 n02966193 n03017168
        n03047690 n03062245 n03207743 n03220513 n03337140 n03347037 n03400231 n03476684 n03527444
        n03676483 n03838899 n03854065 n03888605 n03908618 n03924679 n03998194 n04067472 n04243546
        n04251144 n04258138 n04275548 n04296562 n04389033 n04435653 n04443257 n04509417 n04515003
        n04596742 n04604644 n04612504 n06794110 n07584110 n07697537 n07747607 n09246464 n13054560
        n13133613""",
    "val": """
        n01855672 n02091244 n02114548 n02138441 n02174001 n02950826 n02971356 n02981792 n03075370
        n03417042 n03535780 n03584254 n03770439 n03773504 n03980874 n09256479""",
    "test": """
        n01930112 n01981276 n02099601 n02110063 n02110341 n02116738 n02129165 n02219486 n02443484
        n02871525 n03127925 n03146219 n03272010 n03544143 n03775546 n04146614 n04149813 n04418357
        n04522168 n07613480""",
}


def open_source(request: SourceRequest) -> Source:
    """Opens mini_imagenet:PATH or tiered_imagenet:PATH.

    Raises:
      ValueError: PATH is no folder, or has none of the layouts.
    """
    name = f"{request.name}:{request.argument}"
    root = expand_home(request.argument, "data.name")
    if not root.is_dir():
        raise ValueError(
            f"{name} is not a folder; give one with images and train.csv, val.csv and test.csv, "
            "with Parquet files, or with class folders"
        )
    if tables := _find_tables(root):
        source = _source_of_tables(name, tables, root)
    elif files := sorted(root.rglob("*.parquet")):
        source = source_of_parquet(name, files, root)
    elif pickles := [*root.rglob("*.pkl"), *root.rglob("*.pickle")]:
        raise ValueError(
            f"{name} has pickles ({pickles[0].name}), which may run any program when they are "
            "opened; convert those that you trust to an .npz, as docs/own_data.md shows"
        )
    else:
        source = open_folder(request)
    parts = _parts(request.name, source)
    published = _CLASSES[request.name]
    note = (
        ""
        if tuple(len(parts.get(part, ())) for part in PARTS) == published
        else (f" (the published split has {', '.join(map(str, published))} classes)")
    )
    return source._replace(
        parts=parts, image_size=_SIZE, deduplicate=False, layout=source.layout + note
    )


def _parts(name: str, source: Source) -> dict[str, set[str]]:
    """Those of the source, or the published ones if its parts do not divide the classes."""
    parts = {part: set(classes) for part, classes in source.parts.items()}
    known = set(source.classes or ())
    published = {part: set(names.split()) & known for part, names in _MINI_IMAGENET.items()}
    train, val, test = (parts.get(part, set()) for part in PARTS)
    shared = val | test <= train
    if shared and name == "mini_imagenet" and all(published.values()):
        return published
    return parts


def _find_tables(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Part -> its table, in the folder or in one that it holds; empty if there are none."""
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        tables = {part_of(file.stem): file for file in sorted(folder.glob("*.csv"))}
        if "train" in tables and "test" in tables:
            return {part: tables[part] for part in PARTS if part in tables}
    return {}


def _source_of_tables(name: str, tables: dict[str, pathlib.Path], root: pathlib.Path) -> Source:
    images = []
    for part, table in tables.items():
        with table.open(encoding="utf-8-sig", newline="") as opened:
            rows = list(csv.DictReader(opened, skipinitialspace=True))
        if not rows or not {"filename", "label"} <= rows[0].keys():
            raise ValueError(f"{table} has no columns filename,label; add this line at its top")
        place = _find_images(table, root, rows[0])
        images += [ImageFile(place(row), part, row["label"]) for row in rows]
        missing = [image.path for image in images if not image.path.is_file()]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(rows)} images that {table} lists are missing, such as "
                f"{missing[0]}; restore them, or remove their lines"
            )

    def records() -> Iterator[Record]:
        for image in images:
            yield image.label, read_image(image.path)

    source = source_of_files(images, records, list_files([image.path for image in images], root))
    return source._replace(layout=", ".join(str(t.relative_to(root)) for t in tables.values()))


def _find_images(
    table: pathlib.Path, root: pathlib.Path, row: dict[str, str]
) -> Callable[[dict[str, str]], pathlib.Path]:
    """Where the image of a row is: in images/ or beside the table, in class folders or not."""
    for folder in (root / "images", root, table.parent):
        for place in (_in_folder, _in_class_folder):
            if place(folder, row).is_file():
                return partial(place, folder)
    raise ValueError(
        f"{row['filename']}, which {table} lists first, is neither in {root / 'images'} nor in "
        f"{root}; put the images there"
    )


def _in_folder(folder: pathlib.Path, row: dict[str, str]) -> pathlib.Path:
    return folder / row["filename"]


def _in_class_folder(folder: pathlib.Path, row: dict[str, str]) -> pathlib.Path:
    return folder / row["label"] / row["filename"]
