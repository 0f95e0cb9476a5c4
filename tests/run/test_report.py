"""The report: one file that says in plain words what a run has reached, whatever the run is."""

import json
import math
import pathlib
import re
import shutil

import pytest

from maml_jax.errors import UsageError
from maml_jax.run import report
from maml_jax.run.figures import Picture
from maml_jax.run.loop import train_and_evaluate
from maml_jax.run.report import write_report
from maml_jax.run.workdir import read_evaluation, write_evaluation
from tests.run.pictures import draw, picture_config
from tests.run.runs import tiny_config

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Sinusoids, without learned lengths, with a baseline."""
    workdir = tmp_path_factory.mktemp("waves") / "run"
    steps = {"num_meta_steps": 20, "eval__num_steps": 6, "eval__shots": 5}
    train_and_evaluate(tiny_config(baselines=("oracle",), **steps), workdir)
    return workdir


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Images, with learned lengths and parameters that validation has selected."""
    folder = tmp_path_factory.mktemp("images")
    lengths = {"algorithm": "adaptive_k", "inner__num_steps": 2, "eval__num_steps": 2}
    train_and_evaluate(picture_config(draw(folder / "data"), **lengths), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def pages(waves: pathlib.Path, images: pathlib.Path) -> dict[str, str]:
    return {of.parent.name[:6].rstrip("0"): write_report(of).read_text() for of in (waves, images)}


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "pictures", lambda runs: [Picture("Nothing", "", lambda _: None)])


@pytest.fixture
def copied(waves: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(waves, tmp_path / "run"))


def summary(page: str) -> list[str]:
    (block,) = re.findall(r'<div class="summary">(.*?)</div>', page, re.DOTALL)
    return re.findall("<p>(.*?)</p>", block)


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (
            "waves",
            [
                r"maml \(the initialization is learned\) was trained on regression of sine waves "
                r"from 10 points for 20 meta-steps of 8 tasks, which took \S+ s\.",
                r"On 16 test tasks with 5 support points the mean squared error \w+ from a mean of "
                r"\d\.\d+\s±\s\d\.\d+ \(median \d\.\d+\) before adaptation to \d\.\d+\s±\s\d\.\d+ "
                r"\(median \d\.\d+\) after 6 inner steps; .*diverged\.",
                r"For comparison, the oracle baseline \(told amplitude and phase\) reaches .*\.",
            ],
        ),
        (
            "images",
            [
                r"adaptive_k .* was trained on 3-way 1-shot classification \(data\) for 4 "
                r"meta-steps of 8 tasks, .*; validation selected the parameters of meta-step \d\.",
                r"On 16 test tasks with 1 support image of each class the accuracy .*% .*",
                r"Learned lengths: a parameter takes \d\.\d of at most 2 inner steps on average, "
                r"\S+% of the parameters never adapt, and most steps go to .*\.",
            ],
        ),
    ],
)
def test_three_sentences_say_the_result(
    pages: dict[str, str], of: str, expected: list[str]
) -> None:
    sentences = summary(pages[of])
    assert len(sentences) == 3
    for sentence, pattern in zip(sentences, expected, strict=True):
        assert re.fullmatch(pattern, sentence), sentence


@pytest.mark.parametrize("of", ["waves", "images"])
def test_a_report_needs_no_other_file_and_explains_what_it_shows(
    pages: dict[str, str], of: str
) -> None:
    page = pages[of]
    sources = re.findall(r'src="(.*?)"', page)
    assert len(sources) > 2
    assert all(re.match("data:image/(svg.xml|png);base64,", source) for source in sources)
    assert not re.findall(r"href|@import|url\(|<script|<link", page)
    captions = re.findall("<figcaption>(.*?)</figcaption>", page)
    assert len(captions) == len(sources)
    notes = re.findall(r'<p class="note">(.*?)</p>\n<div class="scroll"><table', page)
    assert len(notes) == page.count("<table")
    assert all(re.search(r"\w{3}.*\.", text) for text in captions + notes)
    assert ("<td>data.name</td>" in page) == (of == "images")  # the sinusoid has no data
    assert "prefers-color-scheme:dark" in page
    assert "width=device-width" in page


def test_every_kind_of_figure_is_there(pages: dict[str, str]) -> None:
    headings = {of: re.findall("<h2>(.*?)</h2>", page) for of, page in pages.items()}
    assert headings["waves"] == [
        "Results", "Loss after every inner step", "Three test waves", "Training", "How it was made",
    ]  # fmt: skip
    assert {"Accuracy after every inner step", "A test episode", "Confusion of the outputs"} < {
        *headings["images"]
    }
    assert {"Learned lengths", "Where the lengths are", "Who still adapts"} < {*headings["images"]}


@pytest.mark.usefixtures("without_figures")
def test_a_diverged_run_has_a_report_without_senseless_numbers(copied: pathlib.Path) -> None:
    record = read_evaluation(copied)
    record["loss"][1:] = [math.nan, 5250507817066.9756, *record["loss"][3:-1], math.inf]
    record["loss_ci95"][1], record["diverged_episodes"] = math.nan, 1234
    write_evaluation(copied, record | {"num_episodes": 2000})
    text = (copied / "evaluation.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    page = write_report(copied).read_text()
    assert "not finite" in page
    assert "1,234 tasks of these (61.70%) diverged." in page
    assert "1,234 of 2,000" in page
    results = re.sub('src=".*?"', "", page.partition("How it was made")[0])
    assert not re.search(r"\d\.\d{5}|\d{7}|\bnan\b", results)


@pytest.mark.usefixtures("without_figures")
def test_an_older_record_has_a_report(copied: pathlib.Path) -> None:
    new = ("loss_median", "diverged_episodes", "train_seconds", "hardware", "versions")
    record = {key: of for key, of in read_evaluation(copied).items() if key not in new}
    write_evaluation(copied, record)
    page = write_report(copied).read_text()
    assert len(summary(page)) == 3
    assert "In this older evaluation only those that are not finite are counted." in page


@pytest.mark.usefixtures("without_figures")
def test_a_report_escapes_what_it_shows_and_refuses_what_is_none(copied: pathlib.Path) -> None:
    record, numbers = read_evaluation(copied), {"min": 0.0, "mean": 0.5, "max": 1.0}
    crafted = {"command": SCRIPT, "learned": {SCRIPT: numbers}, "hardware": SCRIPT}
    write_evaluation(copied, record | crafted | {"versions": {SCRIPT: SCRIPT}})
    page = write_report(copied).read_text("utf-8")
    assert SCRIPT not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 5
    wrong = [
        {"meta_step": SCRIPT},
        {"shots": SCRIPT},
        {"diverged_episodes": SCRIPT},
        {"loss": [SCRIPT] * 7},
        {"loss_ci95": record["loss_ci95"][:3]},
        {"loss_median": [None] * 7},
        {"selected": {"loss": None}},
        {"learned": [1]},
        {"lengths": {}},
        {"length_counts": {"kernel": [SCRIPT]}},
        {"command": None},
    ]
    for fields in wrong:
        (copied / "evaluation.json").write_text(json.dumps(record | fields))
        with pytest.raises(UsageError, match=r"evaluation\.json lacks what a report shows"):
            write_report(copied)
