"""Pools: what load_pools keeps and refuses. Real data sets where they are prepared."""

import pytest

from maml_jax.tasks.images.pools import load_pools
from maml_jax.tasks.images.sources import find_data_dir
from maml_jax.tasks.settings import DataSettings
from tests.tasks.images.problems import write_folder


def test_small_classes_can_be_left_out(load, tmp_path):
    write_folder(tmp_path / "data")
    pools = load(f"folder:{tmp_path / 'data'}", image_size=6, min_images=4)
    assert "class00" not in sum(pools.classes, ())
    with pytest.raises(ValueError, match="no class has min_images=5"):
        load(f"folder:{tmp_path / 'data'}", image_size=6, min_images=5)


def test_folders_need_an_image_size(load, tmp_path):
    write_folder(tmp_path / "data")
    with pytest.raises(ValueError, match=r"set data\.image_size"):
        load(f"folder:{tmp_path / 'data'}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "finn"}, "choose from random"),
        ({"channels": 2}, "data.channels=2 is not allowed; use 0, 1 or 3"),
        ({"image_size": -1}, "data.image_size=-1"),
        ({"invert": True}, "data.invert=True is of type bool; give str"),
    ],
)
def test_errors_name_the_value_and_the_fix(load, options, message):
    with pytest.raises(ValueError, match=message):
        load("glyphs", **options)


# Real data

prepared = pytest.mark.skipif(
    not all((find_data_dir("") / name).is_dir() for name in ("omniglot", "cifar100")),
    reason="TFDS_DATA_DIR has no prepared omniglot and cifar100",
)


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@prepared
@pytest.mark.slow  # reads and resizes 32,460 drawings
def test_omniglot(shared_cache):
    pools = load_pools(DataSettings(name="omniglot", cache_dir=shared_cache))
    for pool, classes in zip(pools[:3], (1100, 100, 423), strict=True):
        assert pool.images.shape == (classes, 20, 28, 28, 1)
        assert (pool.counts == 20).all()
    assert len(set(sum(pools.classes, ()))) == 1623
    assert (pools.train.images.max(axis=(2, 3, 4)) > 150).all()  # ink is bright
    assert 0.05 < pools.train.images.mean() / 255 < 0.15  # and there is little of it


@prepared
@pytest.mark.slow
def test_cifar_fs_and_its_file_split(shared_cache):
    pools = load_pools(DataSettings(name="cifar_fs", cache_dir=shared_cache))
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
        ("fc100", "", (60, 20, 20)),
    ],
)
def test_the_other_protocols_on_real_data(shared_cache, name, split, sizes):
    pools = load_pools(DataSettings(name=name, split=split, cache_dir=shared_cache))
    parts = pools.classes
    assert len(set(sum(parts, ()))) == sum(map(len, parts))
    for part, size in zip(parts, sizes, strict=True):
        assert size in (None, len(part))
