"""Sweeps: from the command to the table, and what is told where one goes wrong."""

import csv
import pathlib

import pytest

from configs import sinusoid
from experiments.executors import train_groups_by
from maml_jax.errors import UsageError
from maml_jax.run.config import default_config
from maml_jax.run.grid import members_of, parse_grid, parse_seeds
from maml_jax.run.sweep import unfinished_groups
from tests.run.runs import TINY, call_all

GRID = ("--grid=inner.step_size=0.01,0.02,1e30", "--seeds=0:2")


def test_a_sweep_names_what_failed_and_does_not_train_again(tmp_path: pathlib.Path) -> None:
    """The setting that diverges leaves the other members of its population alone."""
    settings = TINY | {
        "num_meta_steps": 20,
        "eval.validation_every": 10,
        "eval.validation_episodes": 8,
        "inner.clip_norm": 0.0,
        "outer.task_clip_norm": 0.0,
        "outer.max_nonfinite": 5,
    }
    sweep = ["sweep", f"--workdir={tmp_path}", *(f"--config.{k}={v}" for k, v in settings.items())]
    (first,) = call_all([[*sweep, *GRID]])
    assert first.returncode == 2
    assert "6 runs of 6 to train, in 1 population" in first.stderr
    assert "2 of 6 runs failed, the others are kept" in first.stderr.splitlines()[-1]
    assert "Best by validation: step_size" in first.stdout
    with (tmp_path / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["inner.step_size"] for row in rows] == ["0.01", "0.02"]
    assert {row["seeds"] for row in rows} == {"0 1"}
    page = (tmp_path / "sweep.html").read_text()
    assert page.count("<img") >= 2
    assert "updates were not finite" in page
    assert page.count('<a href="inner.step_size%3D0.0') == 4
    assert (tmp_path / "inner.step_size=0.01" / "seed_1" / "evaluation.json").exists()
    config = sinusoid.get_config()
    config.update_from_flattened_dict(settings)
    members = members_of(config, parse_grid([GRID[0][7:]], config), [0, 1], tmp_path)
    ((*left,),) = unfinished_groups([member.run for member in members], 32)
    assert [run.config.inner.step_size for run in left] == [1e30, 1e30]


def test_grids_and_seeds_are_parsed() -> None:
    config = default_config()
    texts = ["inner.step_size=1,0.5", "model.hidden=(4,),(4,4)", "algorithm=maml"]
    grid = parse_grid(texts, config)
    assert grid == {
        "inner.step_size": [1.0, 0.5],
        "model.hidden": [(4,), (4, 4)],
        "algorithm": ["maml"],
    }
    assert parse_seeds("2:5") == [2, 3, 4]
    assert parse_seeds("7,0") == [7, 0]
    members = members_of(config, grid, [0, 3], pathlib.Path("sweep"))
    assert len(members) == 8
    folder = "inner.step_size=0.5,model.hidden=_4,_4_,algorithm=maml"
    assert members[-1].run.workdir == pathlib.Path("sweep") / folder / "seed_3"
    assert members[-1].run.config.model.hidden == (4, 4)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["inner.step_size"], "no KEY=VALUE"),
        (["inner.learning_rate=1"], "it is called inner.step_size now"),
        (["inner.step_size=fast"], "'fast' is no float"),
        (["inner.step_size=1,1.0"], "gives a value twice"),
        (["seed=1,2"], "use --seeds"),
        (["outer.clip=1", "outer.clip=2"], "gives outer.clip again"),
    ],
)
def test_grids_that_cannot_be_used_are_told(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_grid(texts, default_config())


def test_a_setting_that_is_not_allowed_is_told_before_any_run(tmp_path: pathlib.Path) -> None:
    grid = {"inner.optimizer": ["sgd", "slow"]}
    with pytest.raises(UsageError, match=r"setting inner\.optimizer=slow: inner\.optimizer='slow'"):
        members_of(default_config(), grid, [0], tmp_path)
    with pytest.raises(UsageError, match="--seeds=3:3 gives no seeds"):
        parse_seeds("3:3")


def test_executors_are_checked_before_any_run(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match="--job=timeout_min=3 has no effect"):
        train_groups_by("here", tmp_path, ["timeout_min=3"])
