"""How the tables show things: Markdown, intervals, differences and who wins."""

import re
from collections.abc import Sequence

import numpy as np

from experiments.publish.results import Record
from maml_jax.run.comparison import over_seeds
from maml_jax.run.formats import interval

LOSSES = {"loss": "MSE", "loss_median": "median"}  # over tasks
EQUAL_COMPUTE = 0.05  # largest relative difference of C that counts as equal
DIVERGED = "diverged"  # what stands for a number that a few diverged tasks decide
LARGEST = 1e4  # loss that is shown


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def with_origin(table: str, record: Record) -> str:
    """The table, and below it the hardware and the command of the result."""
    return f"{table}\n\n{record['hardware']}; `{record['command']}`."


def mean_ci(records: Sequence[Record], step: int = -1, measure: str = "loss") -> str:
    """Mean over seeds after an inner step, with the 95% t-interval; an accuracy in %.

    Of one run, the interval is that over its test episodes.
    """
    values = [(of[measure][step], of[f"{measure}_ci95"][step]) for of in records]
    if not np.mean([value for value, _ in values]) < LARGEST:
        return DIVERGED
    return interval(*over_seeds(values), percent=measure == "accuracy")


def over_tasks(records: Sequence[Record], step: int) -> str:
    """Mean loss over seeds and tasks after an inner step, with the 95% interval over tasks."""
    mean = np.mean([record["loss"][step] for record in records])
    ci95 = np.sqrt(np.sum([record["loss_ci95"][step] ** 2 for record in records])) / len(records)
    return interval(float(mean), float(ci95)) if mean < LARGEST else DIVERGED


def verdict(difference: float, half_width: float, accuracy: bool) -> str:
    """Whether a difference to the baseline is a win, a loss or neither."""
    better = difference if accuracy else -difference
    return "wins" if better > half_width else "loses" if better < -half_width else "even"


def fair_verdict(
    difference: float, half_width: float, accuracy: bool, relative_compute: float
) -> str:
    """The verdict at this relative compute.

    At unequal compute only two verdicts are fair: that the cheaper arm wins, and that the more
    expensive one loses.
    """
    says = verdict(difference, half_width, accuracy)
    if abs(relative_compute - 1) <= EQUAL_COMPUTE:
        return says
    fair = says == ("loses" if relative_compute > 1 else "wins")
    return f"{says} at {relative_compute:.2f} C" if fair else f"at {relative_compute:.2f} C"


def against(
    difference: float, half_width: float, accuracy: bool, relative_compute: float = 1.0
) -> str:
    """A paired difference with its interval and the fair verdict; an accuracy in %."""
    says = fair_verdict(difference, half_width, accuracy, relative_compute)
    if accuracy:
        return f"{100 * difference:+.2f} ± {100 * half_width:.2f} {says}"
    if not max(abs(difference), half_width) < LARGEST:
        return DIVERGED
    form = _form(max(abs(difference), half_width))
    return f"{difference:+{form}} ± {half_width:{form}} {says}"


def value(number: float, accuracy: bool) -> str:
    """A loss, or an accuracy in %."""
    if not abs(number) < LARGEST:
        return DIVERGED
    return f"{100 * number:.2f}" if accuracy else f"{number:{_form(number)}}"


def _form(loss: float) -> str:
    return ".4f" if loss < 0.02 else ".3f"


def layer_name(path: str) -> str:
    """As "conv 1" or "last layer"."""
    number = re.match(r"conv_(\d)", path)
    return f"conv {int(number[1]) + 1}" if number else "last layer"
