"""The tables and numbers of the pages are those that the kept results give."""

import pytest

from experiments.publish import report_tables, results, tables
from maml_jax.errors import UsageError


def test_tables_and_numbers_are_up_to_date() -> None:
    texts = [page.read_text() for page in tables.PAGES]
    assert [tables.fill(text) for text in texts] == texts
    assert all(f"<!-- table: {name} -->" in "".join(texts) for name in tables.TABLES)


def test_the_numbers_of_sentences_are_those_of_the_records() -> None:
    rows = {row["arm"]: row for row in results.read("equal_compute_omniglot")["rows"]}
    mean = 100 * rows["maml"]["accuracy"]["mean"]
    marked = "<!-- n: study equal_compute_omniglot accuracy maml -->"
    assert tables.fill(f"{marked}0.0<!-- / -->%") == f"{marked}{mean:.1f}<!-- / -->%"
    difference = report_tables.number("study equal_compute_omniglot accuracy anil maml")
    of = rows["anil"]["accuracy"]
    assert difference == f"{100 * of['difference']:+.1f} ± {100 * of['half_width']:.1f}"
    assert report_tables.number("lower equal_compute_omniglot accuracy maml 1.1") == "3"
    longer, shorter = (rows["adaptive_k"], rows["sparse_maml"])
    percent = 100 * (1 - shorter["p99"] / longer["p99"])
    assert (
        report_tables.number("shorter equal_compute_omniglot sparse_maml adaptive_k")
        == f"{percent:.0f}"
    )


@pytest.mark.parametrize("text", ["study equal_compute_omniglot accuracy mamal", "nothing at all"])
def test_a_number_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"the number '{text}' cannot be made"):
        report_tables.number(text)


def test_no_line_begins_with_a_marker_that_would_end_its_paragraph() -> None:
    lines = [line.lstrip() for page in tables.PAGES for line in page.read_text().splitlines()]
    assert any("<!-- n: " in line for line in lines)
    assert not [line for line in lines if line.startswith("<!-- n: ")]
