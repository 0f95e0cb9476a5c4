"""Runs compared: those that differ in nothing but the seed are one row of a table."""

import csv
import io
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from scipy.special import stdtrit

from maml_jax.errors import UsageError
from maml_jax.run import files
from maml_jax.run.config import FREE_KEYS, completed, flatten
from maml_jax.run.figures.style import (
    MOST_SERIES,
    STYLE,
    count,
    name_lines,
    plot_with_interval,
    scale_loss,
    single,
)
from maml_jax.run.files import Record
from maml_jax.run.formats import diverged, interval, measure_of, text_table
from maml_jax.run.messages import note
from maml_jax.run.workdir import read_config, read_evaluation

# Keys that say nothing about what is compared.
_IGNORED = {"seed", "tasks_per_chunk", "steps_per_dispatch", *FREE_KEYS} - {"eval"}
_LABEL = "setting"  # head of the column of names that a user gives
_DEPTH = 4  # folders below one that is searched for runs
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "±": r"$\pm$"}
)


class Run(NamedTuple):
    """A finished run."""

    workdir: pathlib.Path
    config: dict[str, Any]  # key -> value
    record: Record  # its evaluation


class Group(NamedTuple):
    """Runs that differ in nothing but the seed."""

    settings: dict[str, Any]  # of the keys that differ between groups
    runs: list[Run]

    @property
    def label(self) -> str:
        """Its settings in short."""
        if [*self.settings] == [_LABEL]:
            return str(self.settings[_LABEL])
        shown = [f"{key.rpartition('.')[2]} {value}" for key, value in self.settings.items()]
        return ", ".join(shown) or "all runs"


class Cell(NamedTuple):
    """A value of a group."""

    mean: float
    half_width: float  # of the 95% interval over seeds; of one run, over its test episodes


class Column(NamedTuple):
    """A column of the table: what it reads from an evaluation (value, 95% interval)."""

    name: str
    read: Callable[[Record], tuple[Any, Any]]
    percent: bool = False


def find_runs(folders: Sequence[str | os.PathLike[str]]) -> list[Run]:
    """The finished runs in these folders, which are workdirs or hold workdirs.

    Raises:
      UsageError: there are none.
    """
    workdirs = [run for folder in folders for run in _workdirs(files.local_folder(folder))]
    runs = []
    for workdir in dict.fromkeys(workdir.resolve() for workdir in workdirs):
        try:
            record = read_evaluation(workdir)
        except UsageError as error:
            note(f"left out: {error}")
            continue
        runs.append(Run(workdir, dict(flatten(completed(read_config(workdir)))), record))
    if not runs:
        given = ", ".join(map(str, folders))
        raise UsageError(f"no finished run in {given}; give workdirs, or a folder of workdirs")
    return runs


def _workdirs(folder: pathlib.Path, depth: int = 0) -> Iterator[pathlib.Path]:
    """The folders of runs; baselines, which are in the folder of their run, are not looked for."""
    if (folder / "config.json").exists():
        yield folder
    elif depth < _DEPTH and folder.is_dir():
        for child in sorted(folder.iterdir()):
            if child.is_dir() and not child.is_symlink():
                yield from _workdirs(child, depth + 1)


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Groups runs by the keys of their configs that differ, seeds apart, in order of the values.

    Raises:
      UsageError: some runs measure accuracy and others do not.
    """
    of = {measure_of(run.record): run.workdir for run in runs}
    if len(of) > 1:
        (one, first), (other, second), *_ = of.items()
        raise UsageError(f"{first} measures {one}, but {second} {other}; compare one kind")
    keys = [
        key
        for key in dict.fromkeys(key for run in runs for key in run.config)
        if not any(key == name or key.startswith(f"{name}.") for name in _IGNORED)
        and len({repr(run.config.get(key)) for run in runs}) > 1
    ]
    groups: dict[str, Group] = {}
    for run in runs:
        settings = {key: run.config.get(key) for key in keys}
        group = groups.setdefault(repr(settings), Group(settings, []))
        if run.config["seed"] in [of.config["seed"] for of in group.runs]:
            note(f"left out: {run.workdir} has the config and the seed of another run")
        else:
            group.runs.append(run)
    return sorted(groups.values(), key=lambda group: [_order(of) for of in group.settings.values()])


def _order(value: Any) -> tuple[bool, float, str]:
    """Numbers by value, before all else by name."""
    is_number = isinstance(value, int | float)
    return not is_number, float(value) if is_number else 0.0, str(value)


def over_seeds(values: Sequence[tuple[Any, Any]]) -> Cell:
    """Mean and 95% t-interval of values (value, 95% interval); of one value, its own interval."""
    numbers = np.array([math.nan if of is None else of for of, _ in values], np.float64)
    if len(numbers) == 1:
        return Cell(float(numbers[0]), math.nan if values[0][1] is None else float(values[0][1]))
    quantile = stdtrit(len(numbers) - 1, 0.975)
    half_width = quantile * numbers.std(ddof=1) / math.sqrt(len(numbers))
    return Cell(float(numbers.mean()), float(half_width))


def _measured(name: str, step: int, part: str = "") -> Callable[[Record], tuple[Any, Any]]:
    def read(record: Record) -> tuple[Any, Any]:
        of = record[part] if part else record
        return of[name][step], of.get(f"{name}_ci95", {step: None})[step]

    return read


def columns_of(runs: Sequence[Run]) -> list[Column]:
    """What the table shows: the measure before and after adaptation, and what was learned."""
    records = [run.record for run in runs]
    measure = measure_of(records[0])
    percent = measure == "accuracy"
    unit = ", %" if percent else ""
    columns = [
        Column(f"{measure} before{unit}", _measured(measure, 0), percent),
        Column(f"{measure} after{unit}", _measured(measure, -1), percent),
    ]
    if not percent:
        columns.append(Column("median after", _measured(f"{measure}_median", -1)))
    if all("selected" in record for record in records):
        selected = _measured(measure, -1, "selected")
        columns.append(Column(f"selected by validation{unit}", selected, percent))
    if any(diverged(record) for record in records):
        columns.append(
            Column("diverged, %", lambda of: (diverged(of) / of["num_episodes"], None), True)
        )
    if all("lengths" in record for record in records):
        columns.append(Column("mean length", lambda of: (of["lengths"]["length/mean"], None)))
    if len({record["inner_compute"][-1] for record in records if "inner_compute" in record}) > 1:
        columns.append(Column("inner MFLOP", lambda of: (of["inner_compute"][-1] / 1e6, None)))
    return columns


class Comparison(NamedTuple):
    """Groups of runs and what is shown of them."""

    groups: list[Group]
    columns: list[Column]

    @property
    def keys(self) -> list[str]:
        """Keys of the config that differ."""
        return list(self.groups[0].settings)

    def cells(self, group: Group) -> list[Cell]:
        """One for each column."""
        return [over_seeds([of.read(run.record) for run in group.runs]) for of in self.columns]

    def rows(self) -> list[list[str]]:
        """The table as text, with its head."""
        rows = [[*self.keys, "seeds", *(column.name for column in self.columns)]]
        for group in self.groups:
            shown = [
                interval(*cell, percent=column.percent)
                for cell, column in zip(self.cells(group), self.columns, strict=True)
            ]
            rows.append([*map(str, group.settings.values()), str(len(group.runs)), *shown])
        return rows

    @property
    def caption(self) -> str:
        """What the intervals are."""
        numbers = {len(group.runs) for group in self.groups}
        over = [] if numbers == {1} else ["mean ± 95% t-interval over seeds"]
        one = "± 95% interval over test episodes"
        return "; ".join(over + ([f"of one run, {one}" if over else one] if 1 in numbers else []))


def compare(folders: Sequence[str | os.PathLike[str]]) -> Comparison:
    """Compares the finished runs in these folders.

    Raises:
      UsageError: there are none, or they cannot be compared.
    """
    groups = group_runs(find_runs(folders))
    return Comparison(groups, columns_of([run for group in groups for run in group.runs]))


def labelled(of: Comparison, labels: Sequence[str]) -> Comparison:
    """The comparison with a name of one's own for each group, in place of its settings.

    Raises:
      UsageError: there are more or fewer names than groups, or two are the same.
    """
    if len(labels) != len(of.groups) or len(set(labels)) < len(labels):
        names = "; ".join(group.label for group in of.groups)
        raise UsageError(
            f"--labels={','.join(labels)} must be {len(of.groups)} different names, for {names}"
        )
    groups = [
        group._replace(settings={_LABEL: label})
        for group, label in zip(of.groups, labels, strict=True)
    ]
    return of._replace(groups=groups)


def as_text(of: Comparison) -> str:
    """The table for the terminal."""
    head, *rows = of.rows()
    return f"{text_table(head, rows)}\n{of.caption}"


def as_csv(of: Comparison) -> str:
    """The table with means and half-widths in columns of their own, accuracies as shares."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [name.removesuffix(", %") for name, *_ in of.columns]
    writer.writerow([*of.keys, "seeds", *(f"{n}{part}" for n in names for part in ("", " ci95"))])
    for group in of.groups:
        seeds = " ".join(str(run.config["seed"]) for run in group.runs)
        writer.writerow(
            [*group.settings.values(), seeds, *(v for cell in of.cells(group) for v in cell)]
        )
    return text.getvalue()


def as_latex(of: Comparison) -> str:
    """The table for a paper; it needs the package booktabs."""
    head, *rows = ([cell.translate(_LATEX) for cell in row] for row in of.rows())
    body = "\n".join(f"{' & '.join(row)} \\\\" for row in rows)
    aligned = "l" * len(of.keys) + "r" * (len(head) - len(of.keys))
    return (
        f"% {of.caption}\n\\begin{{tabular}}{{{aligned}}}\n\\toprule\n{' & '.join(head)} \\\\\n"
        f"\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"
    )


def draw(of: Comparison) -> Figure:
    """The measure against inner steps or, of many groups, after the last one."""
    with matplotlib.rc_context(STYLE):
        return _curves(of) if len(of.groups) <= MOST_SERIES else _dots(of)


def _label(of: Comparison) -> tuple[str, float]:
    """The axis label of the measure, and its unit."""
    labels = {"accuracy": "accuracy on query images, %", "return": "mean return"}
    measure = measure_of(of.groups[0].runs[0].record)
    return labels.get(measure, "query loss"), 100.0 if measure == "accuracy" else 1.0


def _curves(of: Comparison) -> Figure:
    label, unit = _label(of)
    measure = measure_of(of.groups[0].runs[0].record)
    figure, axes = single(f"Test ({of.caption})")
    curves = []
    for group in of.groups:
        steps = min(len(run.record[measure]) for run in group.runs)
        reads = [_measured(measure, step) for step in range(steps)]
        curves.append([over_seeds([read(run.record) for run in group.runs]) for read in reads])
    within = (0.0, 100.0)
    if unit == 1:
        within = scale_loss(axes, [cell.mean for curve in curves for cell in curve])
    for group, curve in zip(of.groups, curves, strict=True):
        mean, half_width = (unit * np.array(values) for values in zip(*curve, strict=True))
        plot_with_interval(axes, mean, half_width, group.label, within)
    axes.set(xlabel="inner steps", ylabel=label)
    count(axes.xaxis)
    name_lines(axes)
    return figure


def _dots(of: Comparison) -> Figure:
    label, unit = _label(of)
    figure = Figure(figsize=(6.4, 0.28 * len(of.groups) + 1))
    axes = figure.subplots()
    cells = [of.cells(group)[1] for group in of.groups]
    mean, half_width = (unit * np.array(values) for values in zip(*cells, strict=True))
    places = np.arange(len(cells))[::-1]
    axes.errorbar(mean, places, xerr=half_width, fmt="o", linewidth=1.2)
    axes.set_yticks(places, [group.label for group in of.groups], fontsize="small")
    axes.set(xlabel=f"{label}, after adaptation ({of.caption})")
    return figure
