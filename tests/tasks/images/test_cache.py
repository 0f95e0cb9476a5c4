"""The cache of image data: when it is used, and when it is written again."""

import numpy as np
import pytest

from maml_jax.tasks.images.cache import read_or_write
from tests.tasks.images.problems import write_folder


def entries(tmp_path):
    return sorted((tmp_path / "cache").iterdir())


def test_the_cache_is_hit_by_the_same_and_missed_by_other_options(load, archive, tmp_path):
    load(archive)
    (entry,) = entries(tmp_path)
    written = (entry / "images.npy").stat().st_mtime_ns
    load(archive)
    assert (entry / "images.npy").stat().st_mtime_ns == written
    changes = (
        {"split_seed": 1},
        {"invert": "yes"},
        {"image_size": 6},
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


def test_an_entry_that_another_process_completed_first_is_read(tmp_path):
    def write(scratch):
        (tmp_path / "entry").mkdir()
        for folder, text in ((tmp_path / "entry", "theirs"), (scratch, "mine")):
            (folder / "file").write_text(text)

    read = read_or_write(tmp_path / "entry", lambda folder: (folder / "file").read_text(), write)
    assert read == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]
