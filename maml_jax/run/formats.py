"""How results are printed: four significant digits, accuracies in %."""

import math
import pathlib
from collections.abc import Sequence

from maml_jax.run.files import Record

_DIGITS = 4


def _decimals(value: float) -> int:
    """Decimals that give a number four significant digits; at least four below 1."""
    if not math.isfinite(value) or value == 0:
        return _DIGITS
    return max(_DIGITS - 1 - math.floor(math.log10(abs(value))), 0)


def number(value: float | None) -> str:
    """Four significant digits; an exponent only below 1e-4 and from 1e6 on."""
    if value is None or not math.isfinite(value):
        return "not finite"
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{_DIGITS - 1}e}"
    return f"{value:.{_decimals(value)}f}"


def interval(mean: float | None, ci95: float | None, *, percent: bool = False) -> str:
    """A mean and the half-width of its interval, with the same decimals."""
    if mean is None or not math.isfinite(mean):
        return "not finite"
    if percent:
        mean, ci95 = 100 * mean, ci95 if ci95 is None else 100 * ci95
        text, decimals = f"{mean:.2f}", 2
    else:
        text, decimals = number(mean), _decimals(mean)
    if ci95 is None or not math.isfinite(ci95):
        return text
    half = f"{ci95:.{_DIGITS - 1}e}" if "e" in text else f"{ci95:.{decimals}f}"
    return f"{text} ± {half}"


def percentage(share: float | None) -> str:
    """A share in %."""
    if share is None or not math.isfinite(share):
        return "not finite"
    return f"{100 * share:.2f}%"


def short_name(workdir: pathlib.Path) -> str:
    """The folder's name, with its setting if it is a run of a sweep."""
    names = workdir.parts[-2:] if workdir.name.startswith("seed_") else workdir.parts[-1:]
    return "/".join(names)


def plural(count: int, noun: str) -> str:
    """As "1 task" or "2,000 tasks"; of "support image of each class", the image takes the s."""
    head, of, rest = noun.partition(" of ")
    return f"{count:,} {head}{'' if count == 1 else 's'}{of}{rest}"


def duration(seconds: float) -> str:
    """As "45 s", "1 min 23 s" or "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if whole else f"{seconds:.1g} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def diverged(record: Record) -> int:
    """The number of diverged test episodes; older records count those that are not finite."""
    key = "diverged_episodes" if "diverged_episodes" in record else "nonfinite_episodes"
    return int(record[key])


def measure_of(record: Record) -> str:
    """What results show of an evaluation."""
    return next(name for name in ("accuracy", "return", "loss") if name in record)


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Right-aligned columns, for the terminal."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in (head, *rows)
    )


def adaptation_table(record: Record) -> str:
    """Mean, 95% interval and median after every inner step, as text.

    Args:
      record: an evaluation; what was selected by validation is in columns of its own.
    """
    measure = measure_of(record)
    percent = measure == "accuracy"
    of_last, selected = record, record.get("selected")
    head = ["steps", f"{measure}{', %' if percent else ''} (mean ± 95% CI)", "median"]
    if selected is not None:
        head += ["selected by validation", "median"]
    rows = []
    for step in range(len(record[measure])):
        row = [str(step)]
        for of in (of_last, selected) if selected is not None else (of_last,):
            row.append(interval(of[measure][step], of[f"{measure}_ci95"][step], percent=percent))
            median = of[f"{measure}_median"][step]
            row.append(f"{100 * median:.2f}" if percent and median is not None else number(median))
        rows.append(row)
    table = text_table(head, rows)
    if count := diverged(record):
        table += (
            f"\n{count:,} of {record['num_episodes']:,} test episodes diverged: their loss is not "
            "finite, or above 10 times\nthat before adaptation. They count in medians and "
            "accuracies, but not in mean losses."
        )
    return table
