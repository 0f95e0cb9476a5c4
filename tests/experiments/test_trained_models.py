"""Trained models on the command line: train, classify and compare, for one import."""

import pathlib
import subprocess

import pytest

from maml_jax.run.workdir import open_workdir
from tests.run.pictures import picture_config
from tests.run.runs import call_all, tiny_config
from tests.run.test_classification import arrange
from tests.run.test_comparison import write_run
from tests.run.test_model import untrained

Calls = dict[str, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("calls")


@pytest.fixture(scope="module")
def calls(folder: pathlib.Path) -> Calls:
    run = folder / "run"
    open_workdir(tiny_config(), run)
    for seed in (0, 1):
        write_run(folder / f"runs/{seed}", tiny_config(seed=seed), 1.0)
    alone = ["train", f"--workdir={run}"]
    commands = {
        "other_seed": [*alone, "--config.seed=7", "--config.num_meta_steps=90"],
        "other_card": [*alone, "--config=configs/sinusoid.py:paper"],
        "no_start": ["train", f"--workdir={folder / 'new'}", "--init_from=gone"],
        "no_model": ["classify", "--workdir=gone", "--support=gone", "--query=gone"],
        "compare": ["compare", str(folder / "runs")],
        "no_runs": ["compare"],
    }
    return dict(zip(commands, call_all(list(commands.values())), strict=True))


def test_a_run_goes_on_with_its_own_config(calls: Calls, folder: pathlib.Path) -> None:
    # All but the seed is that of the run, and more meta-steps are allowed.
    assert "another config (seed: 0 -> 7); use" in calls["other_seed"].stderr
    assert "meta_batch_size: 8 -> 25" in calls["other_card"].stderr
    assert "gone is no workdir, no file and no pretrained model" in calls["no_start"].stderr
    assert not (folder / "new").exists()
    assert calls["no_model"].returncode == 2
    assert "no pretrained model; train one" in calls["no_model"].stderr


@pytest.mark.slow  # tests/run/test_classification.py has the rest
def test_folders_are_classified_with_the_file_of_a_model(folder: pathlib.Path) -> None:
    support, query = arrange(folder / "images")
    model = untrained(picture_config(folder)).save(folder / "model")
    images = [f"--support={support}", f"--query={query}", f"--output={folder / 'classified'}"]
    (done,) = call_all([["classify", f"--workdir={model}", *images, "--num_steps=20"]])
    assert done.returncode == 0, done.stderr
    assert "of 5 images" in done.stdout
    assert len((folder / "classified/predictions.csv").read_text().splitlines()) == 7
    assert (folder / "classified/predictions.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_of_runs_becomes_tables_and_a_figure(calls: Calls, folder: pathlib.Path) -> None:
    assert calls["compare"].returncode == 0, calls["compare"].stderr
    assert "1.000 ± 0.000" in calls["compare"].stdout
    kinds = {path.name for path in (folder / "runs/comparison").iterdir()}
    assert kinds == {"table.csv", "table.tex", "figure.png", "figure.pdf"}
    assert calls["no_runs"].returncode == 2
    assert calls["no_runs"].stderr.startswith("error: no runs are given; use experiments.compare")
