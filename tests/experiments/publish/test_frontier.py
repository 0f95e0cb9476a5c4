"""The figures of the report: at most eight arms, with their names at the lines."""

import pytest

from experiments.publish import frontier
from experiments.publish.arms import ACCELERATED, ENGLISH, EQUAL_COMPUTE
from maml_jax.run.figures.style import MOST_SERIES


@pytest.mark.parametrize("task", EQUAL_COMPUTE)
def test_a_frontier_names_few_arms_at_their_lines(task: str) -> None:
    (axes,) = frontier.draw(task).axes
    names = {ENGLISH[arm] for arm in EQUAL_COMPUTE[task]}
    assert {line.get_label() for line in axes.get_lines()} == names
    assert names <= {text.get_text() for text in axes.texts}
    assert len(names) <= MOST_SERIES
    for line in axes.get_lines():  # ends at the largest compute, where the marker is
        assert line.get_xdata()[-1] == max(line.get_xdata())


def test_the_optimizers_are_in_the_order_of_their_lengths() -> None:
    left, right = frontier.draw_optimizers().axes
    p99 = left.get_lines()[0].get_xdata()
    assert list(p99) == sorted(p99, reverse=True)
    assert {text.get_text() for text in left.get_yticklabels()} == {ENGLISH[a] for a in ACCELERATED}
    assert len(right.get_lines()[0].get_xdata()) == len(ACCELERATED) <= MOST_SERIES
