"""The summary of a sweep: one table, and one page of figures that needs no other file."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from maml_jax.run import comparison, files, page
from maml_jax.run.comparison import Cell, Column, Comparison, Group, over_seeds
from maml_jax.run.figures.style import MOST_SERIES, STYLE, count, name_lines, scale_loss, single
from maml_jax.run.files import Record
from maml_jax.run.formats import interval, plural, short_name
from maml_jax.run.grid import Grid
from maml_jax.run.metrics import read_metrics
from maml_jax.run.sweep import Failures

_FEW_SEEDS = 3  # below which a page says that intervals are wide
_SCORE = "best validation"
_TABLE = (
    "{}. Before and after are results on test tasks before adaptation and after the last inner "
    "step, with the last parameters. Selected by validation is the same with the parameters that "
    "were best on validation tasks, whose own result is best validation."
)
_RUNS = (
    "Each run has a folder of its own. experiments.report --workdir=FOLDER writes its report. The "
    "population is the number of runs that were trained together. Intervals are 95% intervals over "
    "test episodes."
)
_PALEST = 0.85  # of the colour map: the rest is too pale on paper


class Summary(NamedTuple):
    """The finished runs of a sweep."""

    compared: Comparison
    best: Group | None  # by validation; None without validation
    failures: Failures


def summarise(workdirs: Sequence[pathlib.Path], failures: Failures) -> Summary:
    """Reads finished runs, one group for each setting.

    Raises:
      UsageError: none is finished.
    """
    compared = comparison.compare(workdirs)
    groups = [
        group._replace(runs=[run._replace(record=_with_score(run)) for run in group.runs])
        for group in compared.groups
    ]
    columns, best = list(compared.columns), None
    if all(_SCORE in run.record for group in groups for run in group.runs):
        accuracy = columns[0].percent
        name = f"{_SCORE}{', %' if accuracy else ' (-loss)'}"
        columns.append(Column(name, lambda record: (record[_SCORE], None), accuracy))
        best = max(groups, key=lambda group: _over_seeds(group, _SCORE).mean)
    return Summary(Comparison(groups, columns), best, failures)


def _with_score(run: comparison.Run) -> Record:
    scores = [line.get("validation_score") for line in read_metrics(run.workdir)]
    known = [score for score in scores if score is not None]
    return run.record | ({_SCORE: max(known)} if known else {})


def _over_seeds(group: Group, name: str) -> Cell:
    return over_seeds([(run.record[name], None) for run in group.runs])


def sentences(of: Summary, grid: Grid) -> list[str]:
    """What the sweep has found."""
    groups = of.compared.groups
    runs = sum(len(group.runs) for group in groups)
    told = [f"{plural(runs, 'run')} of {plural(len(groups), 'setting')} ({_of_grid(grid)})."]
    if of.best is not None:
        score = _over_seeds(of.best, _SCORE)
        after = of.compared.cells(of.best)[1]
        percent = of.compared.columns[0].percent
        told.append(
            f"Best by validation: {of.best.label}, with {interval(*score, percent=percent)}"
            f"{' %' if percent else ''} on validation tasks and "
            f"{interval(*after, percent=percent)}{' %' if percent else ''} on test tasks"
            f"{_standing(of, grid)}."
        )
        run = max(of.best.runs, key=lambda run: float(run.record[_SCORE]))
        told.append(f"Its best run by validation is {short_name(run.workdir)}.")
    elif len(groups) > 1:
        told.append(
            "No setting is chosen, because the runs do not validate: set "
            "--config.eval.validation_every."
        )
    if groups and 1 < max(len(group.runs) for group in groups) < _FEW_SEEDS:
        told.append(
            "Intervals over so few seeds are wide and unreliable; three seeds are worth their time "
            "(--seeds=0:3)."
        )
    if of.failures:
        told.append(f"{plural(len(of.failures), 'run')} failed and is missing in the means.")
    return told


def _standing(of: Summary, grid: Grid) -> str:
    """Whether the best setting is at the edge of a grid, or not to be told from the next one."""
    said = ""
    assert of.best is not None
    for key, values in grid.items():
        numbers = [value for value in values if isinstance(value, (int, float))]
        at_edge = of.best.settings.get(key) in (min(numbers), max(numbers)) if numbers else False
        if len(numbers) == len(values) > 2 and at_edge:
            said += f"; {key} is at the edge of its values, so further ones may be better"
    scores = [_over_seeds(group, _SCORE) for group in of.compared.groups]
    first, *others = sorted(scores, key=lambda score: -score.mean)
    if others and first.mean - first.half_width < others[0].mean + others[0].half_width:
        said += "; its validation interval overlaps that of the next setting"
    return said


def _of_grid(grid: Grid) -> str:
    return "; ".join(f"{key}: {', '.join(map(str, of))}" for key, of in grid.items()) or "no grid"


def _curve(group: Group) -> tuple[str, np.ndarray, np.ndarray]:
    """What is logged (a metric's name), at which meta-steps [n], and its values [seeds, n]."""
    lines = [list(read_metrics(run.workdir)) for run in group.runs]
    for name in ("validation_accuracy", "validation_loss", "query_loss"):
        of_runs = [
            {line["step"]: line[name] for line in run if line.get(name) is not None}
            for run in lines
        ]
        steps = sorted(set.intersection(*map(set, of_runs)))
        if steps:
            break
    return name, np.array(steps), np.array([[of[step] for step in steps] for of in of_runs])


def _shown(of: Summary) -> list[Group]:
    """The groups that a figure has room for: the best ones."""

    def order(group: Group) -> float:
        if of.best is not None:
            return -_over_seeds(group, _SCORE).mean
        after = of.compared.cells(group)[1].mean
        return -after if of.compared.columns[0].percent else after

    chosen = sorted(of.compared.groups, key=order)[:MOST_SERIES]
    return [group for group in of.compared.groups if group in chosen]


def learning_curves(of: Summary) -> Figure:
    """What is validated, or the query loss of the training tasks, against meta-steps."""
    curves = [(group, *_curve(group)) for group in _shown(of)]
    name = curves[0][1]
    percent = name == "validation_accuracy"
    figure, axes = single("Validation tasks" if name.startswith("val") else "Training tasks")
    for group, _, steps, values in curves:
        cells = [over_seeds([(value, None) for value in at]) for at in values.T]
        mean, half = (np.array(part) * (100 if percent else 1) for part in zip(*cells, strict=True))
        (line,) = axes.plot(steps, mean, label=group.label, marker="")
        if len(group.runs) > 1:
            low, high = mean - half, mean + half
            axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xlabel="meta-steps", ylabel="accuracy, %" if percent else "query loss")
    if not percent:
        scale_loss(axes, [y for line in axes.lines for y in np.asarray(line.get_ydata())])
    count(axes.xaxis)
    name_lines(axes)
    return figure


def parallel_view(of: Summary) -> Figure | None:
    """One vertical axis for each key of the grid, and one line for each setting."""
    keys, groups = of.compared.keys, of.compared.groups
    if len(keys) < 2:
        return None
    percent = of.compared.columns[1].percent
    results = [of.compared.cells(group)[1].mean * (100 if percent else 1) for group in groups]
    figure, axes = single("Settings and their results on test tasks")
    low, high = np.nanmin(results), np.nanmax(results)
    colours = matplotlib.colormaps["cividis"]
    for group, result in zip(groups, results, strict=True):
        heights = []
        for key in keys:
            values = _values(groups, key)
            place = values.index(group.settings[key])
            heights.append(place / max(len(values) - 1, 1))
        share = (result - low) / (high - low) if high > low else 0.5
        axes.plot([*heights, share], color=colours(_PALEST * share), linewidth=1.4, marker="")
    for place, key in enumerate(keys):
        values = _values(groups, key)
        for index, value in enumerate(values):
            height = index / max(len(values) - 1, 1)
            axes.text(place - 0.04, height, str(value), ha="right", va="center", fontsize="small")
    unit = "%" if percent else ""
    for share in (0.0, 0.5, 1.0):
        text = f"{low + share * (high - low):.4g}{unit}"
        axes.text(len(keys) + 0.04, share, text, ha="left", va="center", fontsize="small")
    axes.set_xticks(range(len(keys) + 1), [*keys, "test"], fontsize="small")
    axes.set(yticks=[], xlim=(-0.5, len(keys) + 0.5))
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    return figure


def _values(groups: Sequence[Group], key: str) -> list[object]:
    return list(dict.fromkeys(group.settings[key] for group in groups))


def _figures(of: Summary) -> list[str]:
    matplotlib.use("agg")
    few = len(of.compared.groups) <= MOST_SERIES
    best = "" if few else f" Of the settings, the best {MOST_SERIES} are shown."
    with rc_context(STYLE):
        drawn = [
            (
                "Results on test tasks",
                comparison.draw(of.compared),
                f"Each setting, {of.compared.caption}.",
            ),
            (
                "Learning curves",
                learning_curves(of),
                "Lines are means over seeds, bands 95% t-intervals. eval.validation_every sets how "
                f"often a run validates.{best}",
            ),
            (
                "Settings side by side",
                parallel_view(of),
                "Each line is a setting: follow it through its values to its result on test tasks.",
            ),
        ]
        return [page.figure(title, of, text) for title, of, text in drawn if of is not None]


def _runs(of: Summary, folder: pathlib.Path) -> list[list[str | page.Link]]:
    """A row for each run, with a head: its folder, seed, population and results."""
    columns = of.compared.columns
    rows: list[list[str | page.Link]] = [
        ["run", "seed", "population", *(column.name for column in columns)]
    ]
    for run in (run for group in of.compared.groups for run in group.runs):
        shown = [
            interval(*over_seeds([column.read(run.record)]), percent=column.percent)
            for column in columns
        ]
        path = page.Link(f"{run.workdir.relative_to(folder).as_posix()}/")
        together = str(run.record.get("population", 1))
        rows.append([path, str(run.config["seed"]), together, *shown])
    return rows


def write_summary(
    folder: pathlib.Path, workdirs: Sequence[pathlib.Path], grid: Grid, failures: Failures
) -> Summary:
    """Writes sweep.csv and sweep.html.

    Raises:
      UsageError: no run is finished, or a file cannot be written.
    """
    summary = summarise(workdirs, failures)
    files.write(folder / "sweep.csv", comparison.as_csv(summary.compared))
    failed = [["run", "why it failed"]]
    failed += [[str(path.relative_to(folder)), reason] for path, reason in failures.items()]
    parts = [
        page.heading("Settings"),
        page.table(summary.compared.rows(), _TABLE.format(summary.compared.caption.capitalize())),
        page.table(failed, "These runs failed.", kind="text") if failures else "",
        *_figures(summary),
        page.details("All runs", page.table(_runs(summary, folder.resolve()), _RUNS)),
    ]
    document = page.document(f"Sweep in {folder.name}", sentences(summary, grid), parts)
    files.write(folder / "sweep.html", document)
    return summary
