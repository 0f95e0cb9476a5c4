"""Tables and figures of several runs."""

import csv
import json
import pathlib

import numpy as np
import pytest
from ml_collections import ConfigDict

from maml_jax.errors import UsageError
from maml_jax.run.comparison import as_csv, as_latex, as_text, compare, draw, labelled, over_seeds
from maml_jax.run.workdir import as_json
from tests.run.runs import tiny_config


def write_run(folder: pathlib.Path, config: ConfigDict, last: float, measure: str = "loss") -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(as_json(config)))
    record: dict = {"num_episodes": 16, "diverged_episodes": 0, "inner_compute": [0, 1e6]}
    for name in {measure, "loss"}:
        record |= {name: [0.2, last], f"{name}_ci95": [0.01, 0.02], f"{name}_median": [0.1, 0.3]}
    (folder / "evaluation.json").write_text(json.dumps(record))


@pytest.fixture
def sweep(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two step sizes with two seeds, one with a single seed and a run that is not finished."""
    for size, seed, last in (
        (0.1, 0, 1.0),
        (0.1, 1, 3.0),
        (0.02, 0, 0.5),
        (0.02, 1, 0.7),
        (3.0, 0, 9),
    ):
        config = tiny_config(inner__step_size=size, seed=seed, log_every=seed + 1)
        write_run(tmp_path / f"sweep/a{size}_{seed}", config, last)
    unfinished = tmp_path / "sweep/unfinished"
    unfinished.mkdir()
    (unfinished / "config.json").write_text(json.dumps(as_json(tiny_config(seed=7))))
    return tmp_path / "sweep"


def test_runs_that_differ_in_the_seed_are_one_row(
    sweep: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compared = compare([sweep, sweep / "a3.0_0"])  # the second one is in the first
    assert "unfinished is not evaluated yet" in capsys.readouterr().err
    head, *rows = compared.rows()
    assert head == ["inner.step_size", "seeds", "loss before", "loss after", "median after"]
    assert [row[:2] for row in rows] == [["0.02", "2"], ["0.1", "2"], ["3.0", "1"]]
    assert rows[1][3] == "2.000 ± 12.706"  # t(0.975, 1) · √2 / √2
    assert rows[2][3] == "9.000 ± 0.020"
    assert "t-interval over seeds; of one run, ± 95% interval over test episodes" in as_text(
        compared
    )
    table = list(csv.DictReader(as_csv(compared).splitlines()))
    assert [float(row["loss after"]) for row in table] == pytest.approx([0.6, 2.0, 9.0])
    assert table[0]["seeds"] == "0 1"
    latex = as_latex(compared)
    assert r"inner.step\_size & seeds & loss before" in latex
    assert r"0.1 & 2 & 0.2000 $\pm$ 0.0000 & 2.000 $\pm$ 12.706" in latex


def test_settings_can_have_names_of_their_own(sweep: pathlib.Path) -> None:
    named = labelled(compare([sweep]), ["small", "medium", "large_K"])
    head, *rows = named.rows()
    assert head[:2] == ["setting", "seeds"]
    assert [row[0] for row in rows] == ["small", "medium", "large_K"]
    assert rows[1][3] == "2.000 ± 12.706"
    assert r"large\_K & 1" in as_latex(named)
    assert [line.get_label() for line in draw(named).axes[0].lines] == [row[0] for row in rows]
    for wrong in (["small"], ["small", "small", "large"]):
        with pytest.raises(UsageError, match="must be 3 different names, for step_size 0"):
            labelled(compare([sweep]), wrong)


def test_the_figure_has_a_line_for_each_row_or_many_dots(sweep: pathlib.Path) -> None:
    (axes,) = draw(compare([sweep])).axes
    assert [line.get_label() for line in axes.lines] == [
        "step_size 0.02",
        "step_size 0.1",
        "step_size 3.0",
    ]
    for size in range(7):
        write_run(sweep / f"more/{size}", tiny_config(inner__step_size=10.0 + size), 1.0)
    (axes,) = draw(compare([sweep])).axes
    assert len(axes.get_yticklabels()) == 10


def test_accuracies_are_in_percent(tmp_path: pathlib.Path) -> None:
    for algorithm in ("maml", "fomaml"):
        write_run(tmp_path / algorithm, tiny_config(algorithm=algorithm), 0.9, "accuracy")
    compared = compare([tmp_path])
    assert compared.rows()[1] == ["fomaml", "1", "20.00 ± 1.00", "90.00 ± 2.00"]
    write_run(tmp_path / "waves", tiny_config(), 0.9)
    with pytest.raises(UsageError, match=r"waves.* measures accuracy|measures accuracy.*waves"):
        compare([tmp_path])


def test_no_run_and_one_run_twice(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=r"no finished run in .* give workdirs, or a folder"):
        compare([tmp_path, tmp_path / "gone"])
    for name in ("once", "again"):
        write_run(tmp_path / name, tiny_config(), 1.0)
    assert len(compare([tmp_path]).groups[0].runs) == 1
    assert "has the config and the seed of another run" in capsys.readouterr().err


def test_values_that_are_not_finite_stay_so() -> None:
    assert np.isnan(over_seeds([(None, None), (1.0, 0.1)]).mean)
