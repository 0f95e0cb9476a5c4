"""experiments.train with --workdir alone and with --init_from."""

import pathlib

from maml_jax.run.workdir import open_workdir
from tests.run.runs import call_all, tiny_config


def test_a_run_goes_on_with_its_own_config(tmp_path: pathlib.Path) -> None:
    run, new = tmp_path / "run", tmp_path / "new"
    open_workdir(tiny_config(), run)
    other, card, start = call_all(
        [
            ["train", f"--workdir={run}", "--config.seed=7", "--config.num_meta_steps=90"],
            ["train", f"--workdir={run}", "--config=configs/sinusoid.py:paper"],
            ["train", f"--workdir={new}", "--init_from=gone"],
        ]
    )
    assert "another config (seed: 0 -> 7); use" in other.stderr  # all else is that of the run
    assert "meta_batch_size: 8 -> 25" in card.stderr
    assert "gone is no workdir, no file and no pretrained model" in start.stderr
    assert not new.exists()
