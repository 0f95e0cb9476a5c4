"""Classifying images in folders."""

import csv
import pathlib

import numpy as np
import pytest

from maml_jax.errors import UsageError
from maml_jax.run.classification import (
    Classified,
    as_csv,
    as_table,
    classify,
    contact_sheet,
    find_images,
)
from maml_jax.run.problems import Inputs
from tests.run.pictures import draw, picture_config
from tests.run.runs import tiny_config
from tests.run.test_model import untrained


def arrange(folder: pathlib.Path) -> tuple[str, str]:
    """Folders of 3 support and 7 query images of 3 classes; one query image is in none."""
    draw(folder / "all", classes=3)
    for label in ("c00", "c01", "c02"):
        for image, part in enumerate(("support", "query", "query")):
            (folder / part / label).mkdir(parents=True, exist_ok=True)
            (folder / f"all/{label}/{image}.png").rename(folder / part / label / f"{image}.png")
    (folder / "query/c02/2.png").rename(folder / "query/loose.png")
    (folder / "query/notes.txt").write_text("not an image")
    return str(folder / "support"), str(folder / "query")


def test_images_in_folders_are_classified(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    support, query = arrange(tmp_path)
    model = untrained(picture_config(tmp_path, model__normalization="batch"))
    images = find_images(query, "--query", beside=True)
    done = classify(model, find_images(support, "--support"), images, num_steps=20)
    notes = capsys.readouterr().err
    assert "left out: 1 files that are not images (.txt)" in notes
    assert "what is predicted of one depends on the others" in notes
    assert done.classes == ["c00", "c01", "c02"]
    assert done.accuracy() == (5, 5)  # the patterns are easy to tell apart
    table = as_table(done).splitlines()
    assert table[0].split() == ["image", "predicted", "probability", "folder"]
    assert [line.split() for line in table[-5:-1]] == [
        ["class", "predicted", "in", "its", "folder", "right"],
        ["c00", "2", "2", "2"],
        ["c01", "2", "2", "2"],
        ["c02", "2", "1", "1"],  # and an image that is in no folder
    ]
    assert table[-1] == "accuracy: 5 of 5 images, 100.0%"
    rows = list(csv.DictReader(as_csv(done).splitlines()))
    assert [row["predicted"] for row in rows] == done.labels
    assert float(rows[0]["p(c00)"]) == pytest.approx(done.probabilities[0, 0], abs=1e-6)
    assert pathlib.Path(rows[-1]["image"]).name == "loose.png"
    assert rows[-1]["folder"] == ""


def test_the_sheet_has_a_row_for_each_class(tmp_path: pathlib.Path) -> None:
    support, query = arrange(tmp_path)
    queries = find_images(query, "--query", beside=True)
    labels = ["c01", "c00", *["c01"] * 4]
    sheet = contact_sheet(
        Classified(
            find_images(support, "--support"), queries, ["c00", "c01", "c02"], labels, np.eye(6, 3)
        )
    )
    titles = [axes.get_title() for axes in sheet.axes]
    assert len(titles) == 3 * (1 + 5)
    assert [titles[0], titles[6], titles[12]] == ["c00", "c01", "c02"]
    assert "100%\n(in c00)" in titles


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: find_images(str(folder / "gone"), "--query"), "is no folder"),
        (lambda folder: find_images(str(folder), "--support"), "has no images; give a folder of f"),
        (
            lambda folder: classify(untrained(tiny_config(), Inputs((1,), "float32")), [], []),
            "<Model: maml on sinusoid> classifies no images",
        ),
    ],
)
def test_what_cannot_be_classified_is_refused(tmp_path: pathlib.Path, make, message) -> None:
    with pytest.raises(UsageError, match=message):
        make(tmp_path)
