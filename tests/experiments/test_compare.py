"""experiments.compare as a user meets it."""

import pathlib

from tests.run.runs import call_all, tiny_config
from tests.run.test_comparison import write_run


def test_a_folder_of_runs_becomes_tables_and_a_figure(tmp_path: pathlib.Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"runs/{seed}", tiny_config(seed=seed), 1.0)
    done, none = call_all([["compare", str(tmp_path / "runs")], ["compare"]])
    assert done.returncode == 0, done.stderr
    assert "1.0000 ± 0.0000" in done.stdout or "1.000 ± 0.000" in done.stdout
    output = tmp_path / "runs/comparison"
    kinds = {path.name for path in output.iterdir()}
    assert kinds == {"table.csv", "table.tex", "figure.png", "figure.pdf"}
    assert none.returncode == 2
    assert none.stderr.startswith("error: no runs are given; use experiments.compare RUN RUN")
