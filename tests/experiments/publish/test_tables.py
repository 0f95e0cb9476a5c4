"""The tables of the READMEs are those that the kept results give."""

from experiments.publish import tables


def test_tables_are_up_to_date() -> None:
    texts = [page.read_text() for page in tables.PAGES]
    assert [tables.fill(text) for text in texts] == texts
    assert all(f"<!-- table: {name} -->" in "".join(texts) for name in tables.TABLES)
