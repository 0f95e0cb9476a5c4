"""Values of test episodes in files."""

import json
import pathlib

import numpy as np
import pytest

from maml_jax.errors import UsageError
from maml_jax.run.episode_table import EpisodeTable

EPISODES = {"last": {"loss": np.array([[1.0, 0.5], [1.0, np.inf]], np.float32)}}


def test_a_row_for_each_episode(tmp_path: pathlib.Path) -> None:
    EpisodeTable(tmp_path / "table.csv").write({}, EPISODES)
    assert (tmp_path / "table.csv").read_text().splitlines() == [
        "parameters,episode,diverged,loss_0,loss_1",
        "last,0,False,1.0,0.5",
        "last,1,True,1.0,inf",
    ]
    EpisodeTable(tmp_path / "table.json").write({"ways": 4}, EPISODES)
    kept = json.loads((tmp_path / "table.json").read_text())
    assert kept["evaluation"] == {"ways": 4}
    assert kept["episodes"][1]["loss"] == [1.0, None]
    assert kept["episodes"][1]["loss_not_finite"] == {"1": "inf"}
    with pytest.raises(UsageError, match=r"is neither a \.csv nor a \.json file"):
        EpisodeTable(tmp_path / "table.txt")
