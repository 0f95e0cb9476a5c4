"""Fixtures of the image tests."""

import numpy as np
import pytest

from maml_jax.tasks.images.pools import load_pools
from maml_jax.tasks.settings import DataSettings


@pytest.fixture
def load(tmp_path):
    """load_pools with a cache of its own."""
    return lambda name, **options: load_pools(
        DataSettings(name=name, **{"cache_dir": str(tmp_path / "cache"), **options})
    )


@pytest.fixture
def archive(tmp_path):
    """The name of a data set of random gray images."""
    labels = np.repeat(np.arange(10), 3)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 5, 5), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=pixels, labels=labels)
    return f"npz:{tmp_path / 'data.npz'}"
