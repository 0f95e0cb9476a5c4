"""The tables of README.md are those that the kept results give."""

from experiments import tables


def test_readme_tables_are_up_to_date() -> None:
    text = tables.README.read_text()
    assert tables.fill(text) == text
    assert all(f"<!-- table: {name} -->" in text for name in tables.TABLES)
