"""Numbers as they are printed."""

import math

import pytest

from maml_jax.run import formats


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.01149, "3.011"),
        (0.26114, "0.2611"),
        (0.0004567, "0.0004567"),
        (123456.0, "123456"),
        (0.0, "0.0000"),
        (5250507817066.9756, "5.251e+12"),
        (3e-7, "3.000e-07"),
        (math.nan, "not finite"),
        (None, "not finite"),
    ],
)
def test_numbers_have_four_significant_digits(value: float | None, text: str) -> None:
    assert formats.number(value) == text


def test_intervals_have_the_decimals_of_their_mean() -> None:
    assert formats.interval(3.01149, 0.11891) == "3.011 ± 0.119"
    assert formats.interval(0.98623, 0.00271, percent=True) == "98.62 ± 0.27"
    assert formats.interval(2.0, math.nan) == "2.000"
    assert formats.interval(math.inf, 1.0) == "not finite"


def test_a_table_of_the_adaptation() -> None:
    record = {
        "num_episodes": 2000,
        "nonfinite_episodes": 0,
        "diverged_episodes": 2,
        "loss": [3.0114, 0.26114],
        "loss_ci95": [0.12, 0.01],
        "loss_median": [1.9, 0.2],
    }
    head, *rows = formats.adaptation_table(record).splitlines()
    assert head.split() == ["steps", "loss", "(mean", "±", "95%", "CI)", "median"]
    assert rows[1].split() == ["1", "0.2611", "±", "0.0100", "0.2000"]
    assert rows[2].startswith("2 of 2,000 test episodes diverged")
    accuracies = {"accuracy": [0.2, 0.5], "accuracy_ci95": [0.01, 0.02], "accuracy_median": [0, 0]}
    selected = record | accuracies | {"selected": accuracies}
    assert "50.00 ± 2.00" in formats.adaptation_table(selected)


def test_words_for_counts_and_times() -> None:
    assert [formats.plural(n, "task") for n in (1, 2000)] == ["1 task", "2,000 tasks"]
    assert formats.plural(2, "support image of each class") == "2 support images of each class"
    times = [formats.duration(s) for s in (0.04, 45.2, 83, 7500)]
    assert times == ["0.04 s", "45 s", "1 min 23 s", "2 h 5 min"]
    assert [formats.percentage(v) for v in (0.0123, 1.0, None)] == [
        "1.23%",
        "100.00%",
        "not finite",
    ]
