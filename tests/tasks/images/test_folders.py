"""Folders of images: what is left out and counted, links, and copies of images."""

import os
import pathlib
import socket

import numpy as np
import pytest
from PIL import Image

from maml_jax.tasks.images.folders import list_images
from tests.tasks.images.problems import write_folder

CLUTTER = [
    (".hidden.png", "hidden files or folders"),
    (".ipynb_checkpoints/0-checkpoint.png", "hidden files or folders"),
    (".DS_Store", "hidden files or folders"),
    ("._0.png", "hidden files or folders"),
    ("Thumbs.db", "thumbnails or other files of the system"),
    ("@eaDir/0.png", "thumbnails or other files of the system"),
    ("__MACOSX/0.png", "thumbnails or other files of the system"),
    ("notes.txt", "files that are not images (.txt)"),
    ("paper.PDF", "files that are not images (.pdf)"),
    ("table.h5", "files that are not images (.h5)"),
    ("figure.eps", "files that are not images (.eps)"),
    ("README", "files that are not images (no suffix)"),
]


@pytest.fixture
def root(tmp_path):
    """Two classes with one image each."""
    for name in ("cat", "dog"):
        write_image(tmp_path / "data" / name / "0.png")
    return tmp_path / "data"


def write_image(file, level=0):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (2, 2), level).save(file, "PNG")


def listed(root, **options):
    files, left_out = list_images(root, **{"follow_links": False, **options})
    return [str(file.relative_to(root)) for file in files], dict(left_out)


@pytest.mark.parametrize("place", ["cat", "."])
@pytest.mark.parametrize(("name", "reason"), CLUTTER)
def test_what_is_no_image_of_a_class_is_left_out_and_counted(root, name, reason, place):
    write_image(root / place / name)
    assert listed(root) == (["cat/0.png", "dog/0.png"], {reason: 1})


def test_images_are_found_at_any_depth_in_order(root):
    for name in ("cat/b/1.JPG", "cat/a/2.jpeg", "cat/a/b.c/3.webp", "cow.png"):
        write_image(root / name)
    assert listed(root) == (
        ["cat/0.png", "cat/a/2.jpeg", "cat/a/b.c/3.webp", "cat/b/1.JPG", "dog/0.png"],
        {"images beside the class folders": 1},
    )


def test_what_is_no_regular_file_is_not_opened(root):
    os.mkfifo(root / "cat" / "pipe.png")
    here = pathlib.Path.cwd()
    os.chdir(root)  # the name of a socket has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind("cat/socket.png")
    finally:
        os.chdir(here)
    (root / "dog" / "null.png").symlink_to("/dev/null")
    files, left_out = listed(root, follow_links=True)
    assert (files, left_out) == (["cat/0.png", "dog/0.png"], {"pipes, sockets or devices": 3})


OUT = "links out of the folder (data.follow_links=True follows them)"


def test_links_out_of_the_folder_are_followed_if_asked(root):
    write_image(root.parent / "elsewhere" / "1.png")
    (root / "cow").symlink_to(root.parent / "elsewhere")
    (root / "cat" / "2.png").symlink_to(root.parent / "elsewhere" / "1.png")
    (root / "cat" / "3.png").symlink_to(root / "dog" / "0.png")
    inside = ["cat/0.png", "cat/3.png", "dog/0.png"]
    assert listed(root) == (inside, {OUT: 2})
    assert listed(root, follow_links=True) == (sorted([*inside, "cat/2.png", "cow/1.png"]), {})


def test_a_folder_that_is_itself_a_link_is_read(root):
    link = root.parent / "link"
    link.symlink_to(root)
    assert listed(link) == (["cat/0.png", "dog/0.png"], {})


def test_links_in_circles_and_to_nowhere_end(root):
    (root / "cat" / "all").symlink_to(root)
    (root / "cat" / "itself").symlink_to(root / "cat")
    (root / "cat" / "self.png").symlink_to("self.png")
    (root / "cat" / "gone.png").symlink_to("gone")
    (root / "dog" / "cat").symlink_to(root / "cat")  # not around it: followed, once
    (root / "dog" / "again").symlink_to(root / "cat")
    (root / "cat" / "dog").symlink_to(root / "dog")
    for follow_links in (False, True):
        files, left_out = listed(root, follow_links=follow_links)
        assert {str(pathlib.Path(file).parts[0]) for file in files} == {"cat", "dog"}
        assert len(files) == 4
        assert left_out["links to nowhere"] == 4  # two for each class that shows them
        assert left_out["links to a folder that they are in"] >= 2


def test_what_is_left_out_is_one_line_of_the_log(load, tmp_path, caplog):
    write_folder(tmp_path / "data")  # with notes.txt
    for name, _ in CLUTTER[:3]:
        write_image(tmp_path / "data" / "class02" / name)
    pools = load(f"folder:{tmp_path / 'data'}", image_size=6)
    assert sum(int(pool.counts.sum()) for pool in pools[:3]) == 39
    assert [record.getMessage() for record in caplog.records] == [
        f"folder:{tmp_path / 'data'}: left out: 3 hidden files or folders, "
        "1 files that are not images (.txt)"
    ]


def test_a_folder_with_nothing_but_links_out_of_it_names_the_setting(load, root):
    links = root.parent / "links"
    links.mkdir()
    (links / "cat").symlink_to(root / "cat")
    with pytest.raises(
        ValueError, match=r"has no images .*data\.follow_links=True follows them\)$"
    ):
        load(f"folder:{links}", image_size=2)
    (links / "dog").symlink_to(root / "dog")
    options = {"image_size": 2, "split_fractions": (0.5, 0.25, 0.25), "follow_links": True}
    assert load(f"folder:{links}", **options).classes.train == ("cat",)


@pytest.mark.parametrize("locked", ["folder", "file"])
def test_a_locked_folder_or_file_is_named(load, root, monkeypatch, locked):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied", "the place")

    if locked == "folder":
        monkeypatch.setattr(os, "scandir", refuse)
    else:
        monkeypatch.setattr(pathlib.Path, "read_bytes", refuse)
    with pytest.raises(ValueError, match=r"(data|0\.png) cannot be read .*denied: 'the place'"):
        load(f"folder:{root}", image_size=2)


# Copies


@pytest.mark.parametrize("setting", ["auto", "yes", "no"])
def test_the_same_image_twice_in_a_class_is_reported_and_left_out(load, root, caplog, setting):
    for c, name in enumerate(("ant", "bee", "cat", "cow", "dog")):
        for i in range(3):
            write_image(root / name / f"{i}.png", level=20 * c + i)
    Image.open(root / "cow" / "1.png").save(root / "cow" / "copy.bmp")  # other bytes
    Image.open(root / "cow" / "1.png").save(root / "dog" / "cow.bmp")  # of another class
    pools = load(f"folder:{root}", image_size=2, deduplicate=setting)
    kept = {
        name: [int(image[0, 0, 0]) for image in pool.images[i, : pool.counts[i]]]
        for pool, names in zip(pools[:3], pools.classes, strict=True)
        for i, name in enumerate(names)
    }
    copy = [61] if setting == "no" else []
    assert kept["cow"] == [60, 61, 62, *copy]
    assert kept["dog"] == [80, 81, 82, 61]
    (message,) = [record.getMessage() for record in caplog.records]
    assert "1 of 17 images repeat another of their class (most in cow: 1)" in message
    assert ("data.deduplicate='yes'" in message) == (setting == "no")


def test_other_data_sets_keep_their_copies_unless_asked(load, tmp_path, caplog):
    images = np.arange(15, dtype=np.uint8).repeat(2)[:, None, None] * np.ones((5, 5), np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(5).repeat(6))
    name = f"npz:{tmp_path / 'data.npz'}"
    assert (load(name).train.counts == 6).all()
    assert (load(name, deduplicate="yes").train.counts == 3).all()
    assert caplog.text.count("15 of 30 images repeat") == 2
    with pytest.raises(ValueError, match="min_images=4 images, the largest has 3"):
        load(name, deduplicate="yes", min_images=4)  # counted after copies are left out
