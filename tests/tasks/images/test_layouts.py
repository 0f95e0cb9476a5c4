"""Layouts of folders, splits that users write, and features."""

import json

import numpy as np
import pytest
from PIL import Image

from maml_jax.tasks.images.records import Source
from maml_jax.tasks.images.sources import DATASETS, register_dataset


def write(root, names):
    """One image for each path, with its number as gray level."""
    for level, name in enumerate(names):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), level).save(file, "PNG")
    return f"folder:{root}"


def divided(train="train", val="val", test="test", each=1):
    """Paths of 3 training, 1 validation and 2 test classes."""
    classes = {train: "abc", val: "d", test: "ef"}
    return [f"{p}/{c}/{i}.png" for p, of in classes.items() for c in of for i in range(each)]


PLAIN = [f"{c}/0.png" for c in "abcdef"]
SAME = [f"{p}/{c}/{p}.png" for p in ("train", "test") for c in "abcdef"]
DEEP = [f"{g}/{c}/0.png" for g in ("Greek", "Latin") for c in ("c1", "c2", "c3")]


@pytest.mark.parametrize(
    ("names", "options", "sizes", "line"),
    [
        (PLAIN, {}, (4, 1, 1), "PATH/CLASS/IMAGE; 4 training, 1 validation and 1 test"),
        (divided(), {}, (3, 1, 2), "PATH/{train,val,test}/CLASS/IMAGE; 3 training, 1 validation"),
        (divided("Train", "validation"), {}, (3, 1, 2), "divided as the data are"),
        (divided(val="valid"), {}, (3, 1, 2), "divided as the data are"),
        (divided(val="test"), {}, (3, 0, 2), "3 training, 0 validation and 2 test classes"),
        (divided(), {"split": "random"}, (4, 1, 1), "at random (data.split_seed=0)"),
        (SAME, {}, (4, 1, 1), "at random (data.split_seed=0), as test, train have the same"),
        ([*SAME, "test/new.png"], {}, (4, 1, 1), "of 2 examples"),
        (DEEP, {}, (1, 1, 0), "(6 folders in them; data.class_depth=2 makes them the classes)"),
        (DEEP, {"class_depth": 2}, (4, 1, 1), "PATH/GROUP/CLASS/IMAGE; 4 training"),
        ([*PLAIN, "train/0.png"], {}, (4, 2, 1), "PATH/CLASS/IMAGE"),  # a class of vehicles
        ([*PLAIN, "train/2020/0.png"], {}, (4, 2, 1), "PATH/CLASS/IMAGE"),
    ],
)
def test_the_layout_of_a_folder_is_found_and_said(load, tmp_path, names, options, sizes, line):
    pools = load(write(tmp_path / "data", names), image_size=2, **options)
    assert tuple(map(len, pools.classes)) == sizes
    assert line in pools.summary
    assert "\n" not in pools.summary


def test_classes_of_a_divided_deep_tree_are_paths_without_the_part(load, tmp_path):
    names = [f"{part}/{name}" for part in ("train", "test") for name in DEEP]
    names = [n.replace("c", "d") if n.startswith("test") else n for n in names]
    name = write(tmp_path / "data", names)
    (tmp_path / "data" / "train" / "Greek" / "stray.png").write_bytes(
        (tmp_path / "data" / names[0]).read_bytes()
    )
    pools = load(name, image_size=2, class_depth=2)
    assert pools.classes.train == tuple(
        f"{g}/{c}" for g in ("Greek", "Latin") for c in ("c1", "c2", "c3")
    )
    assert pools.classes.test[0] == "Greek/d1"
    assert pools.train.counts.tolist() == [1] * 6


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ([*divided(), "test/a/1.png"], {}, r"1 classes in both train and test \(a\).*=random$"),
        (divided(test="val"), {}, "has no test classes; add some, or divide"),
        (divided("test"), {}, "has no train classes; add some"),
        (PLAIN, {"class_depth": 2}, r"\(PATH/GROUP/CLASS/IMAGE\); left out: 6 images above"),
        (PLAIN, {"split": "own"}, "split='own' is unknown for folder, and no such file"),
        (SAME, {"split": "own"}, "is not divided into training, validation and test classes"),
    ],
)
def test_a_layout_that_cannot_be_right_is_refused(load, tmp_path, names, options, message):
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path / "data", names), image_size=2, **options)


def test_class_depth_is_for_folders(load, archive):
    with pytest.raises(ValueError, match=r"data\.class_depth=2 has no effect on npz:"):
        load(archive, class_depth=2)


# Split files

TABLE = "class,split\n" + "".join(f"{c},train\n" for c in range(6)) + "6,valid\n7,test\n8, Test \n"
LISTS = {"train": ["0", "1", "2", "3", "4", "5"], "validation": ["6"], "test": ["7", "8"]}


def write_split(root, kind):
    if kind == "table":
        (root / "split.csv").write_text("\ufeff" + TABLE, encoding="utf-8")
        return root / "split.csv"
    if kind == "json":
        (root / "split.json").write_text(json.dumps(LISTS))
        return root / "split.json"
    folder = root / "lists"
    folder.mkdir()
    for part, classes in LISTS.items():
        if kind == "txt":
            (folder / f"birds_{part}.txt").write_text("\n".join(classes) + "\n\n")
        else:
            rows = [f"{c}{i}.jpg,{c}" for c in classes for i in range(2)]
            (folder / f"{part}.csv").write_text("filename,label\n" + "\n".join(rows))
    (folder / "README.txt").write_text("no list")
    return folder


@pytest.mark.parametrize("kind", ["table", "json", "txt", "csv"])
def test_a_split_is_read_from_a_table_or_lists(load, archive, tmp_path, kind, caplog):
    """The archive has the classes 0 to 9."""
    path = write_split(tmp_path, kind)
    pools = load(archive, split=str(path))
    assert pools.classes == (tuple("012345"), ("6",), ("7", "8"))
    assert pools.summary.endswith(f"divided by {path}")
    assert caplog.messages == [f"{archive}: 1 classes that are in no part are left out (9)"]
    load(archive, split=str(path))
    assert len(caplog.messages) == 1  # from the cache
    assert load(archive, split=str(path), min_images=3).classes == pools.classes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no train classes"),
        ("0,train\n7,test\n", "lacks 'class'"),
        (TABLE + "9,holdout\n", "the class '9' is in 'holdout', not train, val or test"),
        (TABLE + "0,test\n", r"1 classes in both train and test \(0\); give each class one part$"),
        (TABLE + "ant,test\n", r"has no class 'ant', which its split lists .* called '0', '1'"),
        ("class,split\n0,train\n", "has no test classes"),
        ("\x00", "cannot be read|lacks|has no train"),
    ],
)
def test_a_split_that_will_not_do_is_refused(load, archive, tmp_path, text, message):
    file = tmp_path / "split.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load(archive, split=str(file))
    assert "\n" not in str(error.value)


def test_two_lists_of_a_part_and_other_json_are_refused(load, archive, tmp_path):
    folder = write_split(tmp_path, "txt")
    (folder / "test.json").write_text("[]")
    with pytest.raises(ValueError, match=r"test\.json is its second list of test classes"):
        load(archive, split=str(folder))
    for text in ("[1", "[1]", '{"train": 3}', "{}"):
        (tmp_path / "split.json").write_text(text)
        with pytest.raises(ValueError, match=r"cannot be read|has no train classes"):
            load(archive, split=str(tmp_path / "split.json"))


def test_a_split_file_and_own_parts_of_a_registered_data_set(load, tmp_path, monkeypatch):
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS))
    parts = {"train": ["c0", "c1"], "test": ["c2"]}

    def records():
        for c in range(4):
            yield f"c{c}", Image.new("L", (2, 2), c)

    register_dataset("own", lambda request: Source({}, 4, records, 2, 1, parts=parts))
    assert load("own").classes == (("c0", "c1"), (), ("c2",))
    file = tmp_path / "split.csv"
    file.write_text("class,split\nc3,train\nc9,test\n")
    with pytest.raises(ValueError, match="own has no class 'c9'"):  # known once it is decoded
        load("own", split=str(file))


# Features


def save_features(file, size=5, **arrays):
    features = np.random.default_rng(0).normal(3, 2, (40, size))
    np.savez(file, **({"features": features, "labels": np.repeat(np.arange(10), 4)} | arrays))
    return f"npz:{file}"


@pytest.mark.parametrize("key", ["features", "images"])
def test_features_are_kept_as_float32(load, tmp_path, key):
    values = np.random.default_rng(0).normal(3, 2, (40, 5))
    labels = np.repeat(np.arange(10), 4)
    np.savez(tmp_path / "data.npz", **{key: values, "labels": labels})
    pools = load(f"npz:{tmp_path / 'data.npz'}")
    assert [pool.images.shape for pool in pools[:3]] == [(n, 4, 5) for n in (6, 2, 2)]
    for pool, names in zip(pools[:3], pools.classes, strict=True):
        rows = np.stack([values[labels == int(name)] for name in names])
        np.testing.assert_array_equal(pool.images, rows.astype(np.float32))
    assert "features float64[40, 5], of mean 3.03 and" in pools.summary


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({}, {"image_size": 8}, r"data\.image_size=8 has no effect on the features"),
        ({}, {"channels": 1}, r"data\.channels=1 has no effect"),
        ({}, {"invert": "yes"}, r"data\.invert='yes' has no effect"),
        ({"labels": np.arange(3)}, {}, r"features \[40, 5\] and labels \[3\]"),
        ({"features": np.zeros((0, 5)), "labels": np.zeros(0)}, {}, "not empty"),
        ({"features": np.full((40, 5), 1e39)}, {}, "row 0 of the features is not finite"),
        ({"features": np.full((40, 5), np.nan)}, {}, "row 0 of the features is not finite"),
        ({"features": np.zeros((40, 5), np.int64)}, {}, r"or features, float \[n, d\]"),
    ],
)
def test_features_that_will_not_do_are_refused(load, tmp_path, arrays, options, message):
    with pytest.raises(ValueError, match=message):
        load(save_features(tmp_path / "data.npz", **arrays), **options)
