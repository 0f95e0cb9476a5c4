"""The cache of image data: when it is used, when it is written again, and that it is checked."""

import json
import os
import pathlib
import resource
import shutil

import numpy as np
import pytest

from maml_jax.tasks.images import cache
from maml_jax.tasks.images.cache import CHECKSUMS, expand_home, read_or_write
from tests.tasks.images.problems import write_folder

FILES = {"images.npy", "meta.json", CHECKSUMS}


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
        {"deduplicate": "yes"},
    )
    for change in changes:
        load(archive, **change)
    assert len(entries(tmp_path)) == 1 + len(changes)
    assert {file.name for e in entries(tmp_path) for file in e.iterdir()} == FILES


# Damage


def replace(file, content):
    """Writes a new file, as the old one may still be mapped."""
    file.unlink()
    file.write_bytes(content)


DAMAGES = {
    "removed": lambda file: file.unlink(),
    "empty": lambda file: replace(file, b""),
    "truncated": lambda file: replace(file, file.read_bytes()[:-9]),
    "zeroed": lambda file: replace(file, bytes(file.stat().st_size)),
    "longer": lambda file: replace(file, file.read_bytes() + b"\0"),
    "json": lambda file: replace(file, b"[]"),
    "utf-16": lambda file: replace(file, "{}".encode("utf-16")),
    "folder": lambda file: (file.unlink(), file.mkdir()),
}


def assert_written_again(load, archive, kept, caplog):
    caplog.clear()
    pools = load(archive)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "is damaged" in message
    assert "\n" not in message
    for pool, images in zip(pools[:3], kept, strict=True):
        np.testing.assert_array_equal(pool.images, images)


@pytest.fixture
def written(load, archive, tmp_path):
    """The only entry, and the images of its pools."""
    kept = [np.array(pool.images) for pool in load(archive)[:3]]
    (entry,) = entries(tmp_path)
    return entry, kept


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_written_again(load, archive, written, damage, name, caplog):
    entry, kept = written
    DAMAGES[damage](entry / name)
    assert_written_again(load, archive, kept, caplog)


@pytest.mark.parametrize("damage", ["file", "link", "empty"])
def test_an_entry_that_is_no_folder_of_files_is_written_again(
    load, archive, written, damage, caplog
):
    entry, kept = written
    shutil.rmtree(entry)
    if damage == "file":
        entry.write_text("")
    elif damage == "link":
        entry.symlink_to("nowhere")
    else:
        entry.mkdir()
    assert_written_again(load, archive, kept, caplog)


def test_no_flipped_bit_is_used(load, archive, written, caplog):
    """Every bit of the header of the array and of its description, and some of its pixels."""
    entry, kept = written
    content = {name: (entry / name).read_bytes() for name in FILES}
    rng = np.random.default_rng(0)
    for name in sorted(FILES):
        for bit in rng.choice(min(len(content[name]), 160) * 8, 20, replace=False):
            flipped = bytearray(content[name])
            flipped[bit // 8] ^= 1 << (bit % 8)
            replace(entry / name, flipped)
            assert_written_again(load, archive, kept, caplog)
            assert {file.name: file.read_bytes() for file in entry.iterdir()} == content


def test_an_error_of_the_disk_does_not_remove_the_entry(load, archive, written, monkeypatch):
    entry, _ = written

    def fail(file):
        raise OSError(5, "Input/output error", str(file))

    monkeypatch.setattr(cache, "_crc32_of_file", fail)
    with pytest.raises(ValueError, match=r"cannot be used .*Input/output error.*data\.cache_dir"):
        load(archive)
    assert {file.name for file in entry.iterdir()} == FILES


# Writing


def test_a_failed_build_leaves_nothing_behind(load, tmp_path):
    write_folder(tmp_path / "data")
    (tmp_path / "data" / "class00" / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken.png is not a readable image"):
        load(f"folder:{tmp_path / 'data'}", image_size=6)
    assert entries(tmp_path) == []


def write_text(text):
    def write(folder):
        (folder / "file").write_text(text, encoding="utf-8")

    return write


def read_text(folder):
    return (folder / "file").read_text(encoding="utf-8")


def test_an_entry_that_another_process_completed_first_is_read(tmp_path):
    def write(scratch):
        read_or_write(tmp_path / "entry", read_text, write_text("theirs"))
        write_text("mine")(scratch)

    assert read_or_write(tmp_path / "entry", read_text, write) == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_scratch_folders_of_killed_writers_are_removed_and_those_in_use_are_not(tmp_path):
    first, second = tmp_path / ("a-" + "0" * 16), tmp_path / ("b-" + "1" * 16)
    (tmp_path / ".config-0123456789abcdef").mkdir()  # not of the cache
    killed = tmp_path / f".{first.name}-abcd_123"  # nobody holds its lock
    killed.mkdir()
    write_text("half")(killed)

    def write(scratch):
        assert not killed.exists()
        read_or_write(second, read_text, write_text("whole"))  # as another process would
        write_text("whole")(scratch)

    assert read_or_write(first, read_text, write) == "whole"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {".config-0123456789abcdef", first.name, second.name}


def test_a_full_disk_is_one_error_and_leaves_nothing_behind(load, archive, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
    try:
        with pytest.raises(ValueError, match=r"the cache .* cannot be used .*data\.cache_dir"):
            load(archive)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert entries(tmp_path) == []


def test_images_that_the_disk_cannot_hold_are_not_decoded(load, archive):
    with pytest.raises(ValueError, match=r"30 images of \(1000000, 1000000, 1\) need 3\.0e\+13"):
        load(archive, image_size=10**6)


def test_a_full_disk_cannot_end_the_process(load, archive, monkeypatch):
    """Nothing is written through a memory map, where a full disk is a SIGBUS."""
    open_memmap = np.lib.format.open_memmap

    def only_for_reading(file, mode="r+", *arguments, **options):
        assert mode == "r"
        return open_memmap(file, mode, *arguments, **options)

    monkeypatch.setattr(np.lib.format, "open_memmap", only_for_reading)
    assert isinstance(load(archive).train.images, np.memmap)


# Places


def test_without_a_home_folder_the_setting_is_named(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pathlib.Path, "expanduser", _no_home)
    monkeypatch.delenv(cache.CACHE_DIR_VARIABLE, raising=False)
    with pytest.raises(ValueError, match=r"no home folder; set data\.cache_dir or MAML_JAX_CACHE"):
        cache.find_cache_dir("")
    with pytest.raises(ValueError, match=r"set data\.name to a folder without ~, or set HOME"):
        expand_home("~/images", "data.name")


def _no_home(path):
    raise RuntimeError("Could not determine home directory.")


def test_a_cache_that_cannot_be_written_names_the_setting(load, archive, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be used .*Not a directory.*set data\.cache_dir"):
        load(archive, cache_dir=str(tmp_path / "file" / "cache"))


def test_an_entry_holds_what_the_process_wrote_whatever_the_locale(tmp_path):
    read_or_write(tmp_path / "entry", read_text, write_text("é"))
    checksums = json.loads((tmp_path / "entry" / CHECKSUMS).read_text(encoding="utf-8"))
    assert list(checksums) == ["file"]
    assert os.listdir(tmp_path) == ["entry"]
