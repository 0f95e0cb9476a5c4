"""Tables and single numbers of docs/report.md, with the arms by their English names."""

import shlex
from collections.abc import Callable

import numpy as np

from experiments.publish import results
from experiments.publish.arms import (
    ACCELERATED,
    ENGLISH,
    EQUAL_COMPUTE,
    EQUAL_COMPUTE_STUDY,
    MEASURES,
)
from experiments.publish.benchmark_tables import milliseconds
from experiments.publish.formats import fair_verdict, markdown, value
from experiments.publish.results import Record
from experiments.studies.comparisons import last, length_statistic, paired_interval
from maml_jax.errors import UsageError

_NAMES = {"accuracy": "accuracy, %", "loss_median": "median loss"}
_FIELDS = {"median": "loss_median", "mean_k": "mean", "max_k": "max", "at_k_max": "share_at_most"}


def equal_compute(task: str) -> str:
    """Arms against MAML, the best first."""
    measure, record = MEASURES[task], results.read(EQUAL_COMPUTE_STUDY[task])
    rows = {row["arm"]: row for row in record["rows"]}
    accuracy, base = measure == "accuracy", record["reference"]
    ordered = sorted(EQUAL_COMPUTE[task], key=lambda arm: rows[arm][measure]["mean"])
    body = []
    for arm in ordered[::-1] if accuracy else ordered:
        of, relative = rows[arm][measure], rows[arm]["compute"] / rows[base]["compute"]
        pair, against_base = (of["difference"], of["half_width"]), ["", ""]
        if arm != base:
            says = fair_verdict(*pair, accuracy, relative).split(" at ")[0]
            word = "no verdict" if says.startswith("at ") else says
            against_base = [_difference(*pair, accuracy), word]
        steps = _steps(record, rows[arm])
        mean = value(of["mean"], accuracy)
        body.append([ENGLISH[arm], mean, *against_base, f"{relative:.2f}", steps])
    head = ["method", _NAMES[measure], "difference to MAML", "", "C (MAML = 1)", "steps"]
    return markdown(head, body)


def accelerated() -> str:
    """Arms of the study of accelerated methods against the best gradient descent."""
    record = results.read("acceleration_sinusoid_20")
    rows = {row["arm"]: row for row in record["rows"]}
    base = rows[record["reference"]]
    body = [
        [
            ENGLISH[arm],
            f"{rows[arm]['p99']:.1f}",
            value(rows[arm]["loss_median"]["mean"], False),
            f"{rows[arm]['compute'] / base['compute']:.2f}",
            f"{rows[arm]['mean']:.2f}",
            f"{rows[arm]['share_at_most']:.1%}",
        ]
        for arm in sorted(ACCELERATED, key=lambda arm: rows[arm]["p99"])
    ]
    head = ["method", "p99 of the lengths", "median loss"]
    return markdown([*head, "C (best gradient descent = 1)", "mean length", "at K_max"], body)


def arms() -> str:
    """The names in the results and those in the report."""
    return markdown(["arm", "in the report"], [[f"`{arm}`", text] for arm, text in ENGLISH.items()])


def _steps(record: Record, row: Record) -> str:
    settings = record["arms"][row["arm"]]["overrides"] | row["choice"]
    most = settings.get("inner.num_steps", record["config"]["inner"]["num_steps"])
    return f"{row['mean']:.2f} of at most {most}" if "mean" in row else str(most)


def _difference(mean: float, half_width: float, accuracy: bool) -> str:
    small = max(abs(mean), half_width) < 0.02
    scale, form = (100, ".1f") if accuracy else (1, ".4f" if small else ".3f")
    return f"{scale * mean:+{form}} ± {scale * half_width:{form}}"


def number(text: str) -> str:
    """A number in a sentence: KIND ARGUMENTS, where a kind is an entry of `_KINDS`.

    Raises:
      UsageError: there is no such kind, study, arm or measure.
    """
    kind, *arguments = shlex.split(text)
    try:
        return _KINDS[kind](*arguments)
    except (KeyError, IndexError, TypeError) as error:
        raise UsageError(f"the number {text!r} cannot be made ({error!r})") from error


def _study(name: str, measure: str, arm: str, base: str = "") -> str:
    """A measure of an arm, or its difference to (for C: ratio with) another arm, paired by seed."""
    record = results.read(name)
    rows = {row["arm"]: row for row in record["rows"]}
    row, field = rows[arm], _FIELDS.get(measure, measure)
    if measure == "C_range":
        baseline = rows[record["reference"]]["compute"]
        relative = last(record["arms"][arm]["runs"], "inner_compute") / baseline
        return f"{relative.min():.2f} to {relative.max():.2f}"
    if measure == "C":
        return f"{row['compute'] / rows[base or record['reference']]['compute']:.2f}"
    if field in ("accuracy", "loss", "loss_median"):
        if base:
            pair = (last(record["arms"][of]["runs"], field) for of in (arm, base))
            return _difference(*paired_interval(*pair), field == "accuracy")
        mean = row[field]["mean"]
        return f"{100 * mean:.1f}" if field == "accuracy" else value(mean, False)
    if base:
        pair = (length_statistic(record["arms"][of]["runs"], field) for of in (arm, base))
        mean, half_width = paired_interval(*pair)
        return f"{mean:+.1f} ± {half_width:.1f}"
    if measure == "at_k_max":
        return f"{100 * row[field]:.2g}"
    return f"{row[field]:.1f}" if measure == "p99" else f"{row[field]:.3g}"


def _shorter(name: str, arm: str, base: str) -> str:
    """By how many percent p99 of the lengths is shorter."""
    rows = {row["arm"]: row for row in results.read(name)["rows"]}
    return f"{100 * (1 - rows[arm]['p99'] / rows[base]['p99']):.0f}"


def _lower(name: str, measure: str, arm: str, than: str) -> str:
    """On how many seeds a measure of an arm is lower than that of another arm, or than a number."""
    arms = results.read(name)["arms"]
    values = last(arms[arm]["runs"], measure)
    bound = last(arms[than]["runs"], measure) if than in arms else float(than)
    return str(int(np.sum(values < bound)))


def _design(name: str, what: str) -> str:
    """A number of the design of a study."""
    record = results.read(name)
    runs = record["arms"][record["reference"]]["runs"]
    return {
        "seeds": f"{len(runs)}",
        "meta_steps": f"{record['config']['num_meta_steps']:,}",
        "episodes": f"{runs[0]['num_episodes']:,}",
        "arms": f"{len(record['rows'])}",
        "minutes": f"{record['run_seconds'] / 60:.0f}",
    }[what]


def _schedule(run: str, what: str) -> str:
    """Of adaptation with an inner loop, or a ratio of two: its time, or difference in accuracy.

    what: "1" or "many" tasks in milliseconds, "meta-step", "accuracy" in percent, or "points" more
    than the first run.
    """
    record = results.read("benchmark_schedules")
    rows = [record["rows"][of] for of in run.split("/")]
    if what == "points":
        difference, width = np.mean(rows[0]["difference"]), rows[0]["difference_ci95"]
        return f"{100 * difference:+.1f} ± {100 * width:.1f}"
    if what == "accuracy":
        return f"{100 * np.mean(rows[0]['accuracy']):.1f}"
    if what == "meta-step":
        times = [float(np.median(row["seconds_10_meta_steps"])) for row in rows]
    else:
        tasks = 1 if what == "1" else record["tasks"]
        times = [milliseconds(row, tasks) for row in rows]
    return f"{times[0] / times[1]:.1f}" if len(times) == 2 else f"{times[0]:,.0f}"


def _known(what: str) -> str:
    """Over all gates on quadratics, in percent.

    what: "cost" or "free" for the smallest share of lengths within a step of the best, with or
    without a cost of a step; "gap" for the largest gap of a coordinate's loss with a cost.
    """
    runs = results.read("known_lengths")["runs"]
    if what == "gap":
        return f"{100 * max(run['largest_relative_gap'] for run in runs if run['cost'] > 0):.0f}"
    shares = [run["share_within_1"] for run in runs if (run["cost"] > 0) == (what == "cost")]
    return f"{100 * min(shares):.0f}"


_KINDS: dict[str, Callable[..., str]] = {
    "study": _study,
    "shorter": _shorter,
    "lower": _lower,
    "design": _design,
    "schedule": _schedule,
    "known": _known,
}
