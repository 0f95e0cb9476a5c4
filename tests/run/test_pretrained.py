"""The models of the package: small, complete, and in the guide."""

import pathlib

import pytest

import maml_jax as mj
from maml_jax.run.exported import PACKAGED, packaged

ROOT = pathlib.Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "using_models.md").read_text()


@pytest.mark.parametrize("name", packaged())
def test_a_pretrained_model_is_small_and_has_its_record(name: str) -> None:
    assert (PACKAGED / f"{name}.safetensors").stat().st_size <= 500_000
    about = mj.run.pretrained()[name]
    record = about["record"]
    for key in ("command", "commit", "hardware", "versions", "num_episodes", "shots", "loss_ci95"):
        assert record[key], key
    assert "/" not in record["command"].replace("configs/", "").replace("runs/", "")
    assert f"| `{name}` |" in GUIDE
    assert record["command"] in GUIDE
    model = mj.load(name)
    assert model.config.data.cache_dir == ""
    assert model.config == mj.load(name).config
