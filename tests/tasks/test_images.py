"""Image data by name: decoding, sources, cache. Real data sets where they are prepared."""

import io
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from maml_jax.tasks import glyphs, images

SHARED = pathlib.Path(__file__).parents[3] / "shared"


@pytest.fixture
def load(tmp_path):
    """load_pools with a cache of its own."""
    return lambda name, **options: images.load_pools(
        name, **{"cache_dir": tmp_path / "cache", **options}
    )


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def write_folder(root, classes=10, each=4, kinds=("png", "gif", "bmp")):
    """Images of one gray level per class; class 0 has one image less."""
    for c in range(classes):
        (root / f"class{c:02}").mkdir(parents=True)
        for i in range(each - (c == 0)):
            image = Image.new("L", (9, 12), 20 * c)
            image.save(root / f"class{c:02}" / f"{i}.{kinds[i % len(kinds)]}")
    (root / "class01" / "notes.txt").write_text("not an image")


def gray_levels(pools):
    return {
        name: set(np.unique(pool.images[i, : pool.counts[i]]))
        for pool, names in zip(pools[:3], pools.classes, strict=True)
        for i, name in enumerate(names)
    }


# Decoding

CHECKS = np.array([[0, 1], [1, 0]], np.uint8)


@pytest.mark.parametrize(
    "value",
    [
        encoded(Image.fromarray(CHECKS * 255).convert("1")),  # 1-bit, as in Omniglot's files
        encoded(Image.fromarray(CHECKS)),
        encoded(Image.fromarray(CHECKS * 255)),
        encoded(Image.fromarray(np.stack([CHECKS * 255] * 3, -1))),
        CHECKS,  # what Pillow gives for a 1-bit file
        CHECKS * 255,  # what OpenCV and TensorFlow give
        np.stack([CHECKS] * 3, -1),
        CHECKS.astype(bool),
    ],
)
def test_one_bit_images_come_out_as_0_and_255_whatever_decoded_them(value):
    image = images.as_image(value, binary=True).convert("L")
    np.testing.assert_array_equal(np.asarray(image), CHECKS * 255)


def test_dark_gray_images_are_not_taken_for_one_bit():
    np.testing.assert_array_equal(
        np.asarray(images.as_image(encoded(Image.fromarray(CHECKS)))), CHECKS
    )


def test_sixteen_bits_are_scaled_not_clipped():
    deep = Image.fromarray(np.array([[0, 256 * 100], [256 * 200, 65535]], np.uint16))
    levels = np.asarray(images.as_image(encoded(deep)))
    np.testing.assert_array_equal(levels, [[0, 100], [200, 255]])


# Folders, arrays, glyphs


def test_folder(load, tmp_path):
    write_folder(tmp_path / "data")
    pools = load(f"folder:{tmp_path / 'data'}", image_size=6, channels=1)
    assert [len(pool.counts) for pool in pools[:3]] == [6, 2, 2]
    assert pools.train.images.shape[1:] == (4, 6, 6, 1)
    assert pools.train.images.dtype == np.uint8
    assert gray_levels(pools) == {f"class{c:02}": {20 * c} for c in range(10)}
    counts = np.concatenate([pool.counts for pool in pools[:3]])
    assert sorted(counts) == [3] + [4] * 9
    assert load(f"folder:{tmp_path / 'data'}", image_size=6).train.images.shape[-1] == 3


def test_small_classes_can_be_left_out(load, tmp_path):
    write_folder(tmp_path / "data")
    pools = load(f"folder:{tmp_path / 'data'}", image_size=6, min_images=4)
    assert "class00" not in sum(pools.classes, ())
    with pytest.raises(ValueError, match="no class has min_images=5"):
        load(f"folder:{tmp_path / 'data'}", image_size=6, min_images=5)


def test_npz(load, tmp_path):
    labels = np.repeat(np.arange(10), 3)
    pixels = np.broadcast_to(labels[:, None, None, None], (30, 5, 5, 3)).astype(np.uint8)
    np.savez(tmp_path / "data.npz", images=pixels, labels=labels)
    pools = load(f"npz:{tmp_path / 'data.npz'}", split_fractions=(0.5, 0.2, 0.3))
    assert [pool.images.shape for pool in pools[:3]] == [(n, 3, 5, 5, 3) for n in (5, 2, 3)]
    assert gray_levels(pools) == {str(c): {c} for c in range(10)}
    inverted = load(f"npz:{tmp_path / 'data.npz'}", invert=True, image_size=7, channels=1)
    assert gray_levels(inverted) == {str(c): {255 - c} for c in range(10)}
    assert inverted.train.images.shape[2:] == (7, 7, 1)


def test_glyphs_from_the_cache_equal_what_is_drawn(load, monkeypatch):
    monkeypatch.setattr(glyphs, "CHARACTERS", 20)
    monkeypatch.setattr(glyphs, "LENGTH", 20 * glyphs.IMAGES_PER_CHARACTER)
    faces = glyphs.face_files()
    few = glyphs.candidates(faces)[:40]
    monkeypatch.setattr(glyphs, "candidates", lambda files: few)
    pools = load("glyphs", seed=5)
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
    pools = load("tfds:animals", data_dir=tmp_path / "tfds")
    assert [pool.images.shape for pool in pools[:3]] == [(n, 3, 8, 8, 3) for n in (3, 1, 1)]
    names = ("ant", "bee", "cow", "dog", "eel")
    for name, stored in zip(pools.classes.train, pools.train.images, strict=True):
        assert set(np.unique(stored[..., 0])) == {10 * names.index(name)}
        assert {int(image[0, 0, 1]) % 5 for image in stored} == {names.index(name)}
    monkeypatch.setenv(images.DATA_DIR_VARIABLE, str(tmp_path / "tfds"))
    assert load("tfds:animals").classes == pools.classes


@pytest.mark.parametrize("name", ["tfds:no_such_set", "tfds:mnist", "omniglot"])
def test_unprepared_tfds_sets_say_what_to_do(load, tmp_path, name, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    message = "knows no data set" if "such" in name else r"-e '\.\[tensorflow\]'"
    with pytest.raises(ValueError, match=message):
        load(name, data_dir=tmp_path)


# Cache


@pytest.fixture
def archive(tmp_path):
    labels = np.repeat(np.arange(10), 3)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 5, 5), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=pixels, labels=labels)
    return f"npz:{tmp_path / 'data.npz'}"


def entries(tmp_path):
    return sorted((tmp_path / "cache").iterdir())


def test_the_cache_is_hit_by_the_same_and_missed_by_other_options(load, archive, tmp_path):
    load(archive)
    (entry,) = entries(tmp_path)
    written = (entry / "images.npy").stat().st_mtime_ns
    load(archive)
    assert (entry / "images.npy").stat().st_mtime_ns == written
    changes = (
        {"seed": 1},
        {"invert": True},
        {"image_size": 6},
        {"image_size": 6, "resample": "box"},
        {"channels": 3},
        {"split_fractions": (0.5, 0.2, 0.3)},
        {"min_images": 2},
    )
    for change in changes:
        load(archive, **change)
    assert len(entries(tmp_path)) == 1 + len(changes)
    assert {file.name for e in entries(tmp_path) for file in e.iterdir()} == {
        "images.npy",
        "meta.json",
    }


@pytest.mark.parametrize("damage", ["truncate", "empty", "flip", "delete", "meta", "shape"])
def test_a_damaged_cache_is_built_again(load, archive, tmp_path, damage, caplog):
    before = load(archive)
    kept = [np.array(pool.images) for pool in before[:3]]
    (entry,) = entries(tmp_path)
    file = entry / "images.npy"
    content = bytearray(file.read_bytes())
    if damage == "delete":
        file.unlink()
    elif damage == "meta":
        (entry / "meta.json").write_text("{")
    elif damage == "shape":
        np.save(file, np.zeros((2, 2), np.uint8))
    else:
        content[-1] ^= 1
        file.unlink()  # a new file: the old one is still mapped
        file.write_bytes({"flip": content, "truncate": content[:-9], "empty": b""}[damage])
    after = load(archive)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "damaged" in caplog.text
    for pool, images_before in zip(after[:3], kept, strict=True):
        np.testing.assert_array_equal(pool.images, images_before)


def test_a_failed_build_leaves_nothing_behind(load, tmp_path):
    write_folder(tmp_path / "data")
    (tmp_path / "data" / "class00" / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken.png is not a readable image"):
        load(f"folder:{tmp_path / 'data'}", image_size=6)
    assert entries(tmp_path) == []


# Errors


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("omniglott", {}, "choose from omniglot, cifar_fs, fc100, tfds:NAME"),
        ("omniglot:x", {}, "is unknown"),
        ("folder:nowhere", {}, "is not a folder"),
        ("npz:nowhere.npz", {}, "cannot be read"),
        ("glyphs", {"split": "finn"}, "choose from random"),
        ("glyphs", {"channels": 2}, "channels=2"),
        ("glyphs", {"resample": "cubic"}, "choose from nearest, box"),
    ],
)
def test_errors_name_the_value_and_the_fix(load, name, options, message):
    with pytest.raises(ValueError, match=message):
        load(name, **options)


def test_folders_need_an_image_size_and_images(load, tmp_path):
    write_folder(tmp_path / "data")
    with pytest.raises(ValueError, match="give image_size"):
        load(f"folder:{tmp_path / 'data'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no images"):
        load(f"folder:{tmp_path / 'empty'}", image_size=6)


@pytest.mark.parametrize("damage", ["empty", "truncated", "npy"])
def test_a_file_that_is_no_npz_is_named(load, archive, tmp_path, damage):
    file = tmp_path / "data.npz"
    if damage == "npy":
        np.save(tmp_path / "array.npy", np.zeros(3))
        file = tmp_path / "array.npy"
    else:
        file.write_bytes(b"" if damage == "empty" else file.read_bytes()[:-30])
    with pytest.raises(ValueError, match=rf"npz:{file} cannot be read"):
        load(f"npz:{file}")


def test_arrays_of_a_wrong_type_are_refused(load, tmp_path):
    np.savez(tmp_path / "data.npz", images=np.zeros((2, 5, 5)), labels=np.zeros(2))
    with pytest.raises(ValueError, match=r"float64\[2, 5, 5\]"):
        load(f"npz:{tmp_path / 'data.npz'}")


# Real data

prepared = pytest.mark.skipif(
    not (SHARED / "tfds").is_dir(), reason="the prepared data sets are not there"
)


@prepared
def test_omniglot(shared_cache):
    pools = images.load_pools("omniglot", data_dir=SHARED / "tfds", cache_dir=shared_cache)
    for pool, classes in zip(pools[:3], (1100, 100, 423), strict=True):
        assert pool.images.shape == (classes, 20, 28, 28, 1)
        assert (pool.counts == 20).all()
    assert len(set(sum(pools.classes, ()))) == 1623
    assert (pools.train.images.max(axis=(2, 3, 4)) > 150).all()  # ink is bright
    assert 0.05 < pools.train.images.mean() / 255 < 0.15  # and there is little of it


@prepared
@pytest.mark.slow
def test_cifar_fs_and_its_file_split(shared_cache):
    pools = images.load_pools("cifar_fs", data_dir=SHARED / "tfds", cache_dir=shared_cache)
    assert [pool.images.shape for pool in pools[:3]] == [
        (classes, 600, 32, 32, 3) for classes in (64, 16, 20)
    ]
    assert "trees/oak_tree" in pools.classes.train
    assert "people/woman" in pools.classes.test


@prepared
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "split", "sizes"),
    [
        ("omniglot", "vinyals", (1028, 172, 423)),
        ("omniglot", "lake", (None, None, 659)),
        ("fc100", None, (60, 20, 20)),
    ],
)
def test_the_other_protocols_on_real_data(shared_cache, name, split, sizes):
    pools = images.load_pools(name, split=split, data_dir=SHARED / "tfds", cache_dir=shared_cache)
    parts = pools.classes
    assert len(set(sum(parts, ()))) == sum(map(len, parts))
    for part, size in zip(parts, sizes, strict=True):
        assert size in (None, len(part))
