"""Class splits: sizes, disjointness and coverage of every protocol; errors."""

import json

import pytest

from maml_jax.tasks.images import splits
from maml_jax.tasks.images.sources import find_data_dir

PARTS = ("train", "val", "test")


def omniglot_names():
    """1623 names: 30 background and 20 evaluation alphabets."""
    background = [f"background/A{i % 30:02}/character{i // 30 + 1:02}" for i in range(964)]
    evaluation = [f"evaluation/B{i % 20:02}/character{i // 20 + 1:02}" for i in range(659)]
    return background + evaluation


def cifar_names():
    return [f"group{i // 5:02}/class{i:03}" for i in range(100)]


def write_split_files(folder):
    """Files of every file protocol, for the names above."""
    omniglot, cifar = omniglot_names(), cifar_names()
    for k, part in enumerate(PARTS):
        listing = {"background": {}, "evaluation": {}}
        for name in omniglot[k::3]:
            subset, alphabet, character = name.split("/")
            listing[subset].setdefault(alphabet, []).append(character)
        (folder / f"omniglot_{part}.json").write_text(json.dumps(listing))
        fine = [name.split("/")[1] for name in cifar[k::3]]
        (folder / f"cifar_fs_{part}.txt").write_text("\n".join(fine) + "\n")
        groups = [f"group{i:02}" for i in range(k, 20, 3)]
        (folder / f"cifar100_fc100_{part}.json").write_text(json.dumps(groups))


def assert_partition(split, names):
    parts = [set(part) for part in split]
    assert sum(map(len, split)) == len(set.union(*parts))  # disjoint, no repeats
    assert set.union(*parts) == set(names)


CASES = [
    ("finn", omniglot_names, (1100, 100, 423)),
    ("lake", omniglot_names, None),
    ("vinyals", omniglot_names, (541, 541, 541)),
    ("cifar_fs", cifar_names, (34, 33, 33)),
    ("fc100", cifar_names, (35, 35, 30)),
    ("random", cifar_names, (64, 16, 20)),
]


@pytest.mark.parametrize(("protocol", "names", "sizes"), CASES)
def test_every_protocol_is_disjoint_and_covers_all_classes(protocol, names, sizes, tmp_path):
    write_split_files(tmp_path)
    for seed in (0, 1):
        split = splits.split_classes(names(), protocol, seed=seed, splits_dir=tmp_path)
        assert_partition(split, names())
        assert sizes is None or tuple(map(len, split)) == sizes


def test_the_table_of_protocols_is_tested():
    known = {protocol for row in splits.PROTOCOLS.values() for protocol in row} | {"random"}
    known.remove("own")  # test_layouts.py and test_imagenet.py
    assert known == {protocol for protocol, _, _ in CASES}


@pytest.mark.parametrize("protocol", ["finn", "lake", "random"])
def test_seeded_splits_repeat_and_ignore_the_order_of_names(protocol):
    names = omniglot_names()
    split = splits.split_classes(names, protocol, seed=3)
    assert split == splits.split_classes(names[::-1], protocol, seed=3)
    assert split != splits.split_classes(names, protocol, seed=4)


def test_lake_keeps_the_evaluation_set_and_validates_on_whole_alphabets():
    split = splits.lake_split(omniglot_names(), seed=0)
    assert {name.split("/")[0] for name in split.test} == {"evaluation"}
    assert {name.split("/")[0] for name in split.train + split.val} == {"background"}
    alphabets = [{name.split("/")[1] for name in part} for part in (split.train, split.val)]
    assert not alphabets[0] & alphabets[1]
    assert tuple(map(len, alphabets)) == (25, 5)


def test_fc100_splits_by_superclass(tmp_path):
    write_split_files(tmp_path)
    split = splits.split_classes(cifar_names(), "fc100", splits_dir=tmp_path)
    groups = [{name.split("/")[0] for name in part} for part in split]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]


def test_the_published_files_are_disjoint():
    try:
        folder = splits.find_splits_dir("", find_data_dir(""))
    except ValueError as error:
        pytest.skip(str(error))

    def listed(name):
        text = (folder / name).read_text()
        return set(json.loads(text)) if name.endswith("json") else set(text.split())

    fine = [listed(f"cifar_fs_{part}.txt") for part in PARTS]
    coarse = [listed(f"cifar100_fc100_{part}.json") for part in PARTS]
    assert ([len(p) for p in fine], len(set.union(*fine))) == ([64, 16, 20], 100)
    assert ([len(p) for p in coarse], len(set.union(*coarse))) == ([12, 4, 4], 20)


def test_errors_name_the_value_and_the_fix(tmp_path, monkeypatch):
    monkeypatch.delenv(splits.SPLITS_DIR_VARIABLE, raising=False)
    with pytest.raises(ValueError, match="splits_dir='', MAML_JAX_SPLITS_DIR=None, beside"):
        splits.find_splits_dir("", tmp_path / "tfds")
    with pytest.raises(ValueError, match="do not add up to the 3 classes"):
        splits.finn_split(["a", "b", "c"], seed=0)
    with pytest.raises(ValueError, match="three shares"):
        splits.fraction_split(["a"], (0.5, 0.2), seed=0)
    with pytest.raises(ValueError, match="choose from finn, vinyals, lake"):
        splits.resolve_protocol("omniglot", "fin")
    with pytest.raises(ValueError, match=r"cifar_fs_train.txt is missing"):
        splits.split_classes(cifar_names(), "cifar_fs", splits_dir=tmp_path)
    with pytest.raises(ValueError, match="give splits_dir"):
        splits.split_classes(cifar_names(), "cifar_fs")
    write_split_files(tmp_path)
    with pytest.raises(ValueError, match="split files and data disagree"):
        splits.split_classes([*cifar_names(), "group/extra"], "cifar_fs", splits_dir=tmp_path)


@pytest.mark.parametrize("damage", [b"", b"[", b"[1]", b'{"background": 3}', b"\xff"])
@pytest.mark.parametrize(
    ("protocol", "names", "file"),
    [
        ("vinyals", omniglot_names, "omniglot_val.json"),
        ("fc100", cifar_names, "cifar100_fc100_train.json"),
        ("cifar_fs", cifar_names, "cifar_fs_test.txt"),
    ],
)
def test_damaged_split_files_are_named(protocol, names, file, damage, tmp_path):
    write_split_files(tmp_path)
    (tmp_path / file).write_bytes(damage)
    with pytest.raises(ValueError, match=r"the files of the split .* are damaged|disagree"):
        splits.split_classes(names(), protocol, splits_dir=tmp_path)


def test_the_splits_dir_is_the_argument_then_the_variable_then_beside(tmp_path, monkeypatch):
    for name in ("splits", "argument", "variable"):
        (tmp_path / name).mkdir()
    data_dir = tmp_path / "tfds"
    monkeypatch.delenv(splits.SPLITS_DIR_VARIABLE, raising=False)
    assert splits.find_splits_dir("", data_dir).name == "splits"
    monkeypatch.setenv(splits.SPLITS_DIR_VARIABLE, str(tmp_path / "variable"))
    assert splits.find_splits_dir("", data_dir).name == "variable"
    assert splits.find_splits_dir(str(tmp_path / "argument"), data_dir).name == "argument"
