"""experiments.classify as a user meets it."""

import pathlib

from tests.run.pictures import picture_config
from tests.run.runs import call_all
from tests.run.test_classification import arrange
from tests.run.test_model import untrained


def test_folders_are_classified_with_the_file_of_a_model(tmp_path: pathlib.Path) -> None:
    support, query = arrange(tmp_path)
    model = untrained(picture_config(tmp_path)).save(tmp_path / "model")
    output = tmp_path / "classified"
    folders = [f"--support={support}", f"--query={query}", f"--output={output}"]
    done, none = call_all(
        [
            ["classify", f"--workdir={model}", *folders, "--num_steps=20"],
            ["classify", "--workdir=gone", *folders],
        ]
    )
    assert done.returncode == 0, done.stderr
    assert "of 5 images" in done.stdout
    assert len((output / "predictions.csv").read_text().splitlines()) == 7
    assert (output / "predictions.png").read_bytes().startswith(b"\x89PNG")
    assert none.returncode == 2
    assert "no pretrained model; train one" in none.stderr
