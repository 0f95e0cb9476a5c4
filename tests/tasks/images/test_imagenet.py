"""miniImageNet and tieredImageNet in the layouts that are in use, on generated images."""

import builtins
import json

import pytest
from PIL import Image

from maml_jax.tasks.images.imagenet import _MINI_IMAGENET
from tests.tasks.images.problems import encoded, gray_levels

PARTS = {"train": ("n01", "n02", "n03"), "val": ("n04",), "test": ("n05", "n06")}
LEVELS = {c: {10 * i, 10 * i + 1} for i, c in enumerate(sum(PARTS.values(), ()))}
KINDS = ["mini_imagenet", "tiered_imagenet"]


def image(name, number=0, size=(4, 3)):
    return Image.new("RGB", size, (10 * list(LEVELS).index(name) + number,) * 3)


def write_tables(root, images="images", tables=".", by_class=False):
    """Images and train.csv, val.csv and test.csv, as of Ravi and Larochelle."""
    (root / tables).mkdir(parents=True, exist_ok=True)
    for part, classes in PARTS.items():
        lines = ["filename,label"]
        for name in classes:
            folder = root / images / (name if by_class else "")
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(2):
                image(name, i).save(folder / f"{name}0{i}.png")
                lines.append(f"{name}0{i}.png,{name}")
        (root / tables / f"{part}.csv").write_text("\n".join(lines) + "\n")


def write_parquet(root, labels=None, *, names=None, parts=PARTS, form="data/{}-00000-of-00001"):
    """Files as of the Hugging Face Hub; `labels` maps (part, class) to what the files have."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    for part, classes in parts.items():
        rows = [(c, i) for c in classes for i in range(2)]
        contents = [{"bytes": encoded(image(c, i)), "path": f"{i}.png"} for c, i in rows]
        column = [labels(part, c) if labels else c for c, _ in rows]
        table = pa.table({"image": contents, "label": column})
        if names:
            of = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(of)})
        file = root / f"{form.format({'val': 'validation'}.get(part, part))}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file)


def check(pools, classes=PARTS, levels=LEVELS):
    assert pools.classes == tuple(map(tuple, classes.values()))
    assert pools.train.images.shape[2:] == (84, 84, 3)
    assert gray_levels(pools) == levels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options", [{}, {"tables": "splits"}, {"images": ".", "by_class": True}, {"by_class": True}]
)
def test_images_with_tables(load, tmp_path, kind, options):
    write_tables(tmp_path / "data", **options)
    pools = load(f"{kind}:{tmp_path / 'data'}")
    check(pools)
    published = {"mini_imagenet": "64, 16, 20", "tiered_imagenet": "351, 97, 160"}[kind]
    assert f"(the published split has {published} classes); 3 training, 1 val" in pools.summary


@pytest.mark.parametrize("kind", KINDS)
def test_class_folders_of_each_part(load, tmp_path, kind):
    for part, classes in PARTS.items():
        for name in classes:
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for i in range(2):
                image(name, i).save(tmp_path / "data" / part / name / f"{i}.jpg", quality=100)
    check(load(f"{kind}:{tmp_path / 'data'}"))


ALL = list(LEVELS)


def within(part, name):
    return PARTS[part].index(name)


@pytest.mark.parametrize(
    ("options", "prefixed"),
    [
        ({}, False),
        ({"form": "default/{}/0000"}, False),
        ({"labels": lambda part, c: ALL.index(c), "names": ALL}, False),
        ({"labels": within}, True),
    ],
)
def test_parquet_of_the_hub(load, tmp_path, options, prefixed):
    write_parquet(tmp_path / "data", **options)
    pools = load(f"mini_imagenet:{tmp_path / 'data'}")
    if not prefixed:
        return check(pools)
    assert pools.classes == (("train/0", "train/1", "train/2"), ("val/0",), ("test/0", "test/1"))
    return None


@pytest.mark.parametrize("layout", ["parquet", "folders"])
def test_mini_imagenet_that_is_not_divided_gets_the_published_split(load, tmp_path, layout):
    """As timm/mini-imagenet, whose parts all have all classes, and folders of Kaggle."""
    names = {part: tuple(of.split()[:2]) for part, of in _MINI_IMAGENET.items()}
    every = sum(names.values(), ())
    if layout == "parquet":
        new = dict(zip(every, ALL, strict=True))
        rows = dict.fromkeys(PARTS, ALL)
        write_parquet(tmp_path / "data", lambda part, c: ALL.index(c), names=list(new), parts=rows)
    else:
        for name in (*every, "n99999999"):
            (tmp_path / "data" / name).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(tmp_path / "data" / name / "0.png")
    pools = load(f"mini_imagenet:{tmp_path / 'data'}")
    assert pools.classes == tuple(tuple(sorted(of)) for of in names.values())
    assert pools.train.counts.tolist() == [6 if layout == "parquet" else 1] * 2


def test_the_published_split_has_its_classes():
    parts = [of.split() for of in _MINI_IMAGENET.values()]
    assert [len(part) for part in parts] == [64, 16, 20]
    assert len({name for part in parts for name in part}) == 100


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.csv", "a,b\n1,2\n", r"train\.csv has no columns filename,label"),
        ("train.csv", "filename,label\n", r"has no columns"),
        ("train.csv", "filename,label\nx.jpg,n01\n", r"x\.jpg, which .* lists first, is neither"),
        ("train.csv", "filename,label\nn0100.png,n01\ny.png,n01\n", r"1 of 2 images .* missing"),
        ("images/n0100.png", "damage", r"n0100\.png is not a readable image"),
    ],
)
def test_damaged_tables_and_images_are_named(load, tmp_path, name, content, message):
    write_tables(tmp_path / "data")
    (tmp_path / "data" / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load(f"mini_imagenet:{tmp_path / 'data'}")


def test_other_contents_are_refused(load, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    name = f"tiered_imagenet:{folder}"
    with pytest.raises(ValueError, match="has no images in class folders"):
        load(name)
    (folder / "train.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match=r"has pickles \(train\.pkl\), which may run any program"):
        load(name)
    write_parquet(folder, lambda part, c: 0, parts={"train": ALL, "test": ALL})
    with pytest.raises(ValueError, match=r"is not divided .* give data\.split=FILE"):
        load(name)
    (folder / "data" / "train-00000-of-00001.parquet").write_bytes(b"damage")
    with pytest.raises(ValueError, match=r"train-00000-of-00001\.parquet cannot be read"):
        load(name)
    imported = builtins.__import__

    def lacking(module, *arguments, **options):
        if module.startswith("pyarrow"):
            raise ImportError(module)
        return imported(module, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(ValueError, match=r"needs pyarrow: pip install pyarrow$"):
        load(name)


def test_parquet_with_other_columns_is_refused(load, tmp_path):
    pa = pytest.importorskip("pyarrow")
    (tmp_path / "data").mkdir()
    for columns, message in (
        ({"text": ["a"], "label": [1]}, "the columns text, label, not image and label"),
        ({"image": ["a"], "label": [1]}, "no encoded images in the column 'image'"),
    ):
        for part in ("train", "test"):
            labels = {"label": [part]} if "image" in columns else {}
            table = pa.table(columns | labels)
            pytest.importorskip("pyarrow.parquet").write_table(
                table, tmp_path / "data" / f"{part}.parquet"
            )
        with pytest.raises(ValueError, match=message):
            load(f"mini_imagenet:{tmp_path / 'data'}")
