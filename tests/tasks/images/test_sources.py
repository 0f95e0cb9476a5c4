"""Image data sets by name: folders, arrays, glyphs, TFDS, and those of users."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from maml_jax.tasks.images import glyphs
from maml_jax.tasks.images.records import DATA_DIR_VARIABLE, Source
from maml_jax.tasks.images.sources import (
    DATASETS,
    register_dataset,
    source_of_arrays,
)
from tests.tasks.images.problems import encoded, gray_levels, write_folder


def test_folder(load, tmp_path):
    write_folder(tmp_path / "data")
    pools = load(f"folder:{tmp_path / 'data'}", image_size=6, channels=1)
    assert [len(pool.counts) for pool in pools[:3]] == [6, 2, 2]
    assert pools.train.images.shape[1:] == (4, 6, 6, 1)
    assert pools.train.images.dtype == np.uint8
    levels = {f"class{c:02}": {20 * c + i for i in range(4 - (c == 0))} for c in range(10)}
    assert gray_levels(pools) == levels
    counts = np.concatenate([pool.counts for pool in pools[:3]])
    assert sorted(counts) == [3] + [4] * 9
    assert load(f"folder:{tmp_path / 'data'}", image_size=6).train.images.shape[-1] == 3


def test_a_folder_without_images_is_named(load, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no images"):
        load(f"folder:{tmp_path / 'empty'}", image_size=6)


def test_npz(load, tmp_path):
    labels = np.repeat(np.arange(10), 3)
    pixels = np.broadcast_to(labels[:, None, None, None], (30, 5, 5, 3)).astype(np.uint8)
    np.savez(tmp_path / "data.npz", images=pixels, labels=labels)
    pools = load(f"npz:{tmp_path / 'data.npz'}", split_fractions=(0.5, 0.2, 0.3))
    assert [pool.images.shape for pool in pools[:3]] == [(n, 3, 5, 5, 3) for n in (5, 2, 3)]
    assert gray_levels(pools) == {str(c): {c} for c in range(10)}
    inverted = load(f"npz:{tmp_path / 'data.npz'}", invert="yes", image_size=7, channels=1)
    assert gray_levels(inverted) == {str(c): {255 - c} for c in range(10)}
    assert inverted.train.images.shape[2:] == (7, 7, 1)


def claims(number):
    """An .npz file whose header claims so many images."""
    header, archive = io.BytesIO(), io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (number, 100, 100)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("images.npy", header.getvalue())
        opened.writestr("labels.npy", header.getvalue())
    return archive.getvalue()


def saved(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def unreadable():
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    valid = saved(images=np.zeros((2, 5, 5), np.uint8), labels=np.arange(2))
    return {
        "empty": b"",
        "truncated": valid[:-30],
        "npy": array.getvalue(),
        "no labels": saved(images=np.zeros((2, 5, 5), np.uint8)),
        "objects": saved(images=np.zeros((2, 5, 5), np.uint8), labels=np.array([{}, 1])),
        "931 GiB": claims(10**8),
        "2^63": claims(2**63),
        "header": valid.replace(b"'descr'", b"'des(r'"),
        "broken header": valid.replace(b"{'descr'", b"({[descr'"),
    }


@pytest.mark.parametrize("damage", unreadable())
def test_a_file_that_is_no_npz_is_named(load, tmp_path, damage):
    file = tmp_path / "data.npz"
    file.write_bytes(unreadable()[damage])
    with pytest.raises(ValueError, match=rf"npz:{file} cannot be read") as error:
        load(f"npz:{file}")
    assert "\n" not in str(error.value)


def test_no_flipped_bit_of_an_npz_ends_in_a_traceback(load, archive, tmp_path):
    """A zip file has checksums of its own, but not of its lists of names and offsets."""
    file = tmp_path / "data.npz"
    content, rng = file.read_bytes(), np.random.default_rng(0)
    pools = load(archive)
    for _ in range(100):
        flipped = bytearray(content)
        flipped[rng.integers(len(flipped))] ^= 1 << rng.integers(8)
        file.write_bytes(flipped)
        try:
            again = load(archive)
        except ValueError:
            continue
        np.testing.assert_array_equal(again.train.images, pools.train.images)


def test_a_pipe_is_no_npz(load, tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(ValueError, match="it is no file"):
        load(f"npz:{tmp_path / 'pipe.npz'}")


def test_arrays_of_a_wrong_type_are_refused(load, tmp_path):
    np.savez(tmp_path / "data.npz", images=np.zeros((2, 5, 5)), labels=np.zeros(2))
    with pytest.raises(ValueError, match=r"float64\[2, 5, 5\]"):
        load(f"npz:{tmp_path / 'data.npz'}")
    with pytest.raises(ValueError, match=r"uint8\[2, 0, 5\]"):
        source_of_arrays(np.zeros((2, 0, 5), np.uint8), np.zeros(2))


def test_labels_must_fit_the_images():
    with pytest.raises(ValueError, match=r"labels \[3\] must be"):
        source_of_arrays(np.zeros((2, 5, 5), np.uint8), np.zeros(3))


def test_glyphs_from_the_cache_equal_what_is_drawn(load, monkeypatch):
    monkeypatch.setattr(glyphs, "CHARACTERS", 20)
    monkeypatch.setattr(glyphs, "LENGTH", 20 * glyphs.IMAGES_PER_CHARACTER)
    faces = glyphs.face_files()
    few = glyphs.candidates(faces)[:40]
    monkeypatch.setattr(glyphs, "candidates", lambda files: few)
    pools = load("glyphs", split_seed=5)
    assert [pool.images.shape for pool in pools[:3]] == [(n, 20, 28, 28, 1) for n in (13, 3, 4)]
    drawn = {}
    for name, image in glyphs.render_all(seed=5):
        drawn.setdefault(name, []).append(np.asarray(image))
    for name, stored in zip(pools.classes.train, pools.train.images, strict=True):
        np.testing.assert_array_equal(stored[..., 0], np.stack(drawn[name]))


# TFDS


def write_tfds(root, names=("ant", "bee", "cow", "dog", "eel"), each=3):
    """A prepared TFDS set, written without TensorFlow."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    folder = root / "animals" / "1.0.0"
    folder.mkdir(parents=True)
    features = {
        "image": tfds.features.Image(shape=(8, 8, 3)),
        "label": tfds.features.ClassLabel(names=names),
    }
    tfds.features.FeaturesDict(features).save_config(str(folder))
    writer = ArrayRecordWriter(str(folder / "animals-train.array_record-00000-of-00001"), "")
    number = len(names) * each
    for i in range(number):
        example = tf_example_pb2.Example()
        image = Image.new("RGB", (8, 8), (10 * (i % len(names)), i, 0))
        example.features.feature["image"].bytes_list.value.append(encoded(image))
        example.features.feature["label"].int64_list.value.append(i % len(names))
        writer.write(example.SerializeToString())
    writer.close()
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    split = {"name": "train", "shardLengths": [str(number)], "filepathTemplate": template}
    keys = {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}}
    info = {
        "name": "animals",
        "version": "1.0.0",
        "fileFormat": "array_record",
        "moduleName": "animals",
        "supervisedKeys": keys,
        "splits": [split],
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))


def test_any_prepared_tfds_set(load, tmp_path, monkeypatch):
    write_tfds(tmp_path / "tfds")
    pools = load("tfds:animals", dir=str(tmp_path / "tfds"))
    assert [pool.images.shape for pool in pools[:3]] == [(n, 3, 8, 8, 3) for n in (3, 1, 1)]
    names = ("ant", "bee", "cow", "dog", "eel")
    for name, stored in zip(pools.classes.train, pools.train.images, strict=True):
        assert set(np.unique(stored[..., 0])) == {10 * names.index(name)}
        assert {int(image[0, 0, 1]) % 5 for image in stored} == {names.index(name)}
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(tmp_path / "tfds"))
    assert load("tfds:animals").classes == pools.classes


@pytest.mark.parametrize("damage", [b"", b"{}", b"[", b"\xff", b"removed"])
@pytest.mark.parametrize(
    "name",
    ["dataset_info.json", "features.json", "animals-train.array_record-00000-of-00001"],
)
def test_damaged_tfds_sets_are_named(load, tmp_path, name, damage):
    write_tfds(tmp_path / "tfds")
    file = tmp_path / "tfds" / "animals" / "1.0.0" / name
    file.unlink()
    if damage != b"removed":
        file.write_bytes(damage)
    with pytest.raises(ValueError, match="animals") as error:
        load("tfds:animals", dir=str(tmp_path / "tfds"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["tfds:no_such_set", "tfds:mnist", "omniglot"])
def test_unprepared_tfds_sets_say_what_to_do(load, tmp_path, name, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    message = "knows no data set" if "such" in name else r"-e '\.\[tensorflow\]'"
    with pytest.raises(ValueError, match=message):
        load(name, dir=str(tmp_path))


# Names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("omniglott", "choose from omniglot, cifar_fs, fc100, tfds:NAME, mini_imagenet:PATH"),
        ("omniglot:x", "is unknown"),
        ("omniglot:", "is unknown"),
        ("folder", "is unknown"),
        ("npz:", "is unknown"),
        ("folder:nowhere", "is not a folder"),
        ("npz:nowhere.npz", "cannot be read"),
        ("mini_imagenet:nowhere", "give one with images and train.csv"),
    ],
)
def test_errors_name_the_value_and_the_fix(load, name, message):
    with pytest.raises(ValueError, match=message):
        load(name)


@pytest.fixture
def registered(monkeypatch):
    """register_dataset, undone after the test."""
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS))
    return register_dataset


def open_levels(request):
    """Ten gray levels, from a seed on, with as many images as the argument says."""
    labels = np.repeat(np.arange(10), int(request.argument or 3))
    images = np.broadcast_to(labels[:, None, None] + request.seed, (len(labels), 5, 5))
    return source_of_arrays(images.astype(np.uint8), labels)


def test_a_registered_data_set_loads_like_the_others(load, registered):
    registered("levels", open_levels)
    pools = load("levels", split_seed=7)
    assert [pool.images.shape for pool in pools[:3]] == [(n, 3, 5, 5, 1) for n in (6, 2, 2)]
    assert gray_levels(pools) == {str(c): {c + 7} for c in range(10)}
    with pytest.raises(ValueError, match=r", levels$"):
        load("levels:4")


def test_a_registered_data_set_may_take_an_argument(load, registered):
    registered("levels", open_levels, "NUMBER")
    assert load("levels:4").train.images.shape == (6, 4, 5, 5, 1)
    with pytest.raises(ValueError, match="levels:NUMBER"):
        load("levels")


def test_a_registered_data_set_may_decode_its_own_images(load, registered):
    def records():
        for c in range(5):
            yield f"class{c}", Image.new("RGB", (3, 4), (c, 2 * c, 3 * c))

    registered("colours", lambda request: Source({"version": 1}, 5, records, None, 3, invert=True))
    pools = load("colours", image_size=2)
    for name, stored in zip(pools.classes.train, pools.train.images, strict=True):
        c = int(name[-1])
        assert stored.shape == (1, 2, 2, 3)
        assert set(map(tuple, stored.reshape(-1, 3))) == {(255 - c, 255 - 2 * c, 255 - 3 * c)}


@pytest.mark.parametrize("error", [OSError(13, "locked"), KeyError("label"), ValueError("odd")])
def test_an_error_of_a_source_names_its_image(load, registered, error):
    def records():
        yield "class0", Image.new("L", (2, 2))
        raise error

    registered("broken", lambda request: Source({}, 2, records, None, 1))
    with pytest.raises(ValueError, match=r"^broken, image 1: "):
        load("broken", image_size=2)


@pytest.mark.parametrize("image", [Image.new("F", (2, 2), np.nan), np.zeros((2, 2))])
def test_an_image_that_cannot_be_processed_is_named(load, registered, image):
    registered("odd", lambda request: Source({}, 1, lambda: [("class0", image)], None, 1))
    with pytest.raises(ValueError, match=r"^odd, image 0: "):
        load("odd", image_size=2)


def test_a_source_without_images_is_named(load, registered):
    registered("empty", lambda request: Source({}, 0, list, None, 1))
    with pytest.raises(ValueError, match=r"^empty has no images$"):
        load("empty", image_size=2)


def test_changed_arrays_are_not_taken_from_the_cache(load, registered):
    for level in (1, 2):
        images = np.full((3, 2, 2), level, np.uint8)
        registered("level", lambda request, i=images: source_of_arrays(i, np.arange(3)))
        assert load("level").train.images.min() == level


def test_a_source_that_is_incomplete_is_refused(load, registered):
    def open_incomplete(request):
        return open_levels(request)._replace(complete=(10, 4))

    registered("levels", open_incomplete)
    with pytest.raises(ValueError, match="levels has 10 classes, not 10 with 4 images each"):
        load("levels")


def test_data_sets_of_the_package_cannot_be_replaced(registered):
    with pytest.raises(ValueError, match="'omniglot' is part of maml_jax"):
        registered("omniglot", open_levels)
    with pytest.raises(ValueError, match="cannot name a data set"):
        registered("my:levels", open_levels)
