"""The tables of a report, each with a sentence that explains it."""

import dataclasses

from maml_jax.run import page
from maml_jax.run.config import flatten
from maml_jax.run.figures.runs import Run, describe_task, loss_name
from maml_jax.run.figures.waves import shown_steps
from maml_jax.run.files import Record
from maml_jax.run.formats import diverged, interval, measure_of, number, percentage
from maml_jax.run.unused import unused_keys


def _rows_of(runs: list[Run]) -> list[tuple[str, Record]]:
    """A name and a record for each run, and for its selected parameters and its soft gates."""
    rows = [(run.name, run.record) for run in runs]
    for run in runs:
        if "selected" in run.record:
            rows.append((f"{run.name}, selected by validation", run.shown))
        if "soft" in run.record:
            rows.append((f"{run.name}, soft gates", run.record | run.record["soft"]))
    return rows


def results(runs: list[Run]) -> str:
    """Mean, interval and median before and after some inner steps."""
    first = runs[0]
    measure = measure_of(first.record)
    percent = measure == "accuracy"
    shown = [0, *shown_steps(len(first.record[measure]) - 1)]
    steps = ["before", *(f"after {step} step{'s' if step > 1 else ''}" for step in shown[1:])]
    rows = [["run", *steps, "diverged", "step size", "meta-steps"]]
    for name, record in _rows_of(runs):
        cells = [_cell(record, measure, step, percent) for step in shown]
        size = record["inner_step_size"]
        rows.append(
            [
                name,
                *cells,
                f"{diverged(record):,} of {record['num_episodes']:,}",
                "learned" if size is None else f"{size:.4g}",
                f"{record['meta_step']:,}",
            ]
        )
    spec = first.experiment.spec
    what = "Accuracy in %" if percent else "Return" if measure == "return" else ""
    what = what or loss_name(spec).partition(",")[0].capitalize()
    note = (
        f"{what} on test episodes ({describe_task(spec, first.record['shots'])}) before and after "
        "adaptation: mean, 95% confidence interval and median. Diverged episodes "
        "end above 10 times their loss before adaptation or are not finite; they count in "
        "medians and accuracies, but not in mean losses."
    )
    if not all("diverged_episodes" in record for _, record in _rows_of(runs)):
        note += " In this older evaluation only those that are not finite are counted."
    return page.table(rows, note)


def _cell(record: Record, measure: str, step: int, percent: bool) -> str:
    mean = record[measure]
    if step >= len(mean):
        return ""
    text = interval(mean[step], record[f"{measure}_ci95"][step], percent=percent)
    text = text.replace(" ±", "\n±")
    medians = record.get(f"{measure}_median")
    if medians is None:
        return text
    median = percentage(medians[step]).rstrip("%") if percent else number(medians[step])
    return f"{text}\nmedian {median}"


def lengths(run: Run) -> str:
    """Statistics of the learned lengths; nothing if none are learned."""
    record = run.shown
    if "lengths" not in record:
        return ""
    of, most = record["lengths"], run.experiment.learned.most
    names = ("mean", "p90", "p99", "max")
    rows = [
        ["mean", "90%", "99%", "longest", "at 0", f"at {most}", "compute, MFLOP", "of full"],
        [
            *(f"{of[f'length/{name}']:.2f}" for name in names),
            percentage(of["length/share_at_0"]),
            percentage(of["length/share_at_most"]),
            number(of["inner_compute"] / 1e6),
            percentage(of["inner_compute_share"]),
        ],
    ]
    note = (
        "How many inner steps the parameters take: mean, percentiles and maximum of the learned "
        f"lengths, the shares that never adapt or take all {most} steps, and the floating-point "
        f"operations of adapting to one task, also as a share of those of {most} full steps."
    )
    return page.heading("Learned lengths") + page.table(rows, note)


def learned(run: Run) -> str:
    """Learned step sizes and hyper-parameters of the inner optimizer; of a matrix M, M − I."""
    record = run.shown
    if "learned" not in record:
        return ""
    rows = [["learned", "min", "mean", "max"]]
    for name, of in record["learned"].items():
        rows.append([name, *(number(of[column]) for column in rows[0][1:])])
    note = (
        "What else is learned: the range of the step sizes and of the inner optimizer's values "
        "over the parameters (of a matrix M, that of M - I)."
    )
    return page.heading("Learned values") + page.table(rows, note)


def settings(run: Run) -> str:
    """The config, with what "auto" stands for."""
    spec = run.experiment.spec
    chosen = dict(flatten(dataclasses.asdict(spec)))
    values = dict(flatten(run.experiment.config))
    rows = [["key", "value"]]
    for key in sorted(values.keys() - unused_keys(spec, values)):
        value = values[key]
        text = repr(value)
        if chosen.get(key, value) != value:
            text = f"{value!r}, here {chosen[key]!r}"
        rows.append([key, text])
    note = "Every key of the config that this run uses; --config.KEY=VALUE changes one."
    return page.table(rows, note, kind="text")


def origin(run: Run) -> str:
    """Where the numbers come from."""
    record = run.record
    versions = record.get("versions")
    rows = [["what", "value"]]
    for name in ("hardware", "commit"):
        if name in record:
            rows.append([name, str(record[name])])
    if isinstance(versions, dict):
        rows.append(["versions", ", ".join(f"{name} {of}" for name, of in versions.items())])
    rows.append(["seed", str(run.experiment.spec.seed)])
    return page.table(rows, "The machine and the software that made these results.", kind="text")
