"""Means, intervals and verdicts."""

import pytest

from experiments.ledger import summary
from experiments.ledger.row import Published, Row
from experiments.publish.results import Record


def runs_of(*accuracies: float, ci95: float = 0.01, **fields: object) -> list[Record]:
    return [
        {
            "seed": seed,
            "accuracy": [0.2, accuracy],
            "accuracy_ci95": [0.0, ci95],
            "num_episodes": 600,
            "diverged_episodes": 0,
            "train_seconds": 100.0,
            "evaluate_seconds": 20.0,
            **fields,
        }
        for seed, accuracy in enumerate(accuracies)
    ]


def row_of(*published: Published, **fields: object) -> Row:
    return Row("", "", "sinusoid", published, **fields)  # type: ignore[arg-type]


def test_intervals_are_over_seeds_and_over_tasks() -> None:
    of = summary.measured(row_of(), runs_of(0.97, 0.98, 0.99))
    assert of.mean == pytest.approx(98)
    assert of.over_seeds == pytest.approx(4.3027 / 3**0.5, rel=1e-4)  # t(0.975, 2) σ/√3
    assert of.over_tasks == pytest.approx(1 / 3**0.5)
    one = summary.measured(row_of(), runs_of(0.97))
    assert one.over_seeds == one.over_tasks == pytest.approx(1)


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [
        ((0.989, 0.989, 0.989), "reproduced"),  # the published interval begins at 98.3
        ((0.98, 0.98, 0.98), "reproduced"),  # 98.0 + 0.58 reaches it
        ((0.995,), "reproduced (1 seed only)"),
        ((0.95, 0.97, 0.99), "short by 1.70 points (within the spread of the seeds)"),
        ((0.95, 0.95, 0.95), "short by 3.70 points"),
        ((), "not run"),
    ],
)
def test_a_verdict_compares_intervals(accuracies: tuple[float, ...], verdict: str) -> None:
    assert summary.verdict(row_of(Published(98.7, 0.4)), runs_of(*accuracies)) == verdict


def test_a_loss_is_better_if_it_is_lower_and_every_step_is_judged() -> None:
    runs: list[Record] = [
        {
            "loss": [3.0, 0.6, 1e16],
            "loss_ci95": [0.1, 0.01, 1e16],
            "num_episodes": 2_000,
            "diverged_episodes": 1,
        }
    ] * 3
    row = row_of(Published(0.67, None, 1), Published(0.38, None, 2))
    assert summary.verdict(row, runs) == (
        "reproduced after 1 step, diverged after 2 steps; "
        "without 3 of 6,000 test tasks, which diverged"
    )
    assert summary.verdict(row_of(Published(0.5, None, 1)), runs).startswith("short by 0.10;")


def test_a_row_tests_the_parameters_that_it_names() -> None:
    selected = {"accuracy": [0.2, 0.9], "accuracy_ci95": [0.0, 0.02]}
    runs = runs_of(0.5, selected=selected)
    assert summary.measured(row_of(parameters="selected"), runs).mean == pytest.approx(90)
    assert summary.measured(row_of(), runs).mean == pytest.approx(50)
    assert summary.minutes(runs) == 2


def test_the_listing_has_every_row() -> None:
    text = summary.listing()
    assert set(summary.ROWS) <= set(text.split())
    assert "needs miniImageNet" in text
