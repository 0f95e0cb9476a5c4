"""Who wins."""

import pytest

from experiments.publish import formats


@pytest.mark.parametrize(
    ("difference", "compute", "expected"),
    [
        (-0.3, 1.02, "wins"),
        (0.3, 1.0, "loses"),
        (0.1, 1.0, "even"),
        (-0.3, 1.2, "at 1.20 C"),  # better, but more expensive
        (0.3, 1.2, "loses at 1.20 C"),
        (-0.3, 0.5, "wins at 0.50 C"),
        (0.1, 0.5, "at 0.50 C"),
    ],
)
def test_only_the_cheaper_side_wins_at_unequal_compute(
    difference: float, compute: float, expected: str
) -> None:
    cell = formats.against(difference, 0.2, False, compute)
    assert cell == f"{difference:+.3f} ± 0.200 {expected}"


def test_a_diverged_mean_is_named_and_not_shown() -> None:
    runs = [{"loss": [2.0, last], "loss_ci95": [0.5, 0.1]} for last in (1.0, 3.0)]
    assert formats.mean_ci(runs) == "2.000 ± 12.706"  # t(0.975, 1) · √2 / √2
    assert formats.over_tasks(runs, 1) == "2.000 ± 0.071"
    for number in (1e5, float("inf"), float("nan")):
        runs[0]["loss"][1] = number
        assert formats.mean_ci(runs) == formats.over_tasks(runs, 1) == "diverged"
        assert formats.value(number, False) == "diverged"
        assert formats.against(-number, 0.1, False) == "diverged"
