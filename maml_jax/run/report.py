"""The report of a run: one HTML file that needs no other, made from the files in its workdir."""

import os
import pathlib
from collections.abc import Iterable
from typing import Any

import matplotlib
from matplotlib import rc_context

from maml_jax.run import files, page, tables
from maml_jax.run.checkpoint import newest
from maml_jax.run.figures import STYLE, Run, pictures
from maml_jax.run.figures.runs import describe_task
from maml_jax.run.files import DamagedError, Record
from maml_jax.run.metrics import read_metrics
from maml_jax.run.summary import sentences
from maml_jax.run.workdir import BEST, as_json, load_run, read_evaluation

_NUMBER = int | float
_COUNTS = ("meta_step", "num_episodes", "shots", "num_steps", "nonfinite_episodes")
_LENGTHS = ("mean", "p90", "p99", "max", "share_at_0", "share_at_most")


def load(workdir: pathlib.Path, name: str = "") -> Run:
    """Reads a finished run.

    Raises:
      UsageError: there is no finished run or no readable checkpoint in workdir, or its evaluation
        lacks what a report shows.
    """
    experiment, state = load_run(workdir)
    record = read_evaluation(workdir)
    try:
        _check_evaluation(record)
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"{workdir / 'evaluation.json'} lacks what a report shows ({error}); the run's train "
            "command makes it again"
        ) from error
    if "selected" in record:
        selected = newest(workdir / BEST, state, as_json(experiment.config))
        state = selected.state if selected is not None else state
    return Run(
        name or experiment.spec.algorithm,
        experiment,
        state.meta_params,
        record,
        list(read_metrics(workdir)),
    )


def _check(record: dict[Any, Any], keys: Iterable[Any], kind: Any) -> None:
    for key in keys:
        if not isinstance(record[key], kind):
            raise TypeError(f"{key} is {record[key]!r}"[:80])


def _check_evaluation(record: Record) -> None:
    """Raises a KeyError, TypeError or AttributeError if a field is missing or of a wrong type."""
    _check(record, ["command"], str)
    measures = [name for name in ("loss", "accuracy", "return") if name in record] or ["loss"]
    for part in (record, record.get("selected", {}), record.get("soft", {})):
        whole = {**record, **part}
        _check(whole, _COUNTS, int)
        _check(whole, {"diverged_episodes"} & set(whole), int)
        _check(whole, ["inner_step_size"], _NUMBER | None)
        needed = [f"{measure}{of}" for measure in measures for of in ("", "_ci95")]
        medians = [f"{measure}_median" for measure in measures if f"{measure}_median" in whole]
        for name in needed + medians:
            _check(whole, [name], list)
            row = {f"{name}[{k}]": value for k, value in enumerate(whole[name])}
            _check(row, row, _NUMBER)
            if len(row) != whole["num_steps"] + 1:
                raise TypeError(f"{name} has {len(row)} numbers")
        _check_tables(whole)


def _check_tables(record: Record) -> None:
    if "lengths" in record:
        _check(record["lengths"], [f"length/{name}" for name in _LENGTHS], _NUMBER)
        _check(record["lengths"], ["inner_compute", "inner_compute_share"], _NUMBER)
    for counts in record.get("length_counts", {}).values():
        _check(dict(enumerate(counts)), range(len(counts)), int)
    for of in record.get("learned", {}).values():
        _check(of, ["min", "mean", "max"], _NUMBER)


def _figures(runs: list[Run]) -> list[str]:
    """The figures as HTML, without those that have nothing to show."""
    matplotlib.use("agg")
    shown = []
    with rc_context(STYLE):
        for picture in pictures(runs):
            drawn = picture.draw(runs)
            if drawn is not None:
                shown.append(
                    page.figure(picture.title, drawn, picture.caption, pixels=picture.pixels)
                )
    return shown


def write_report(workdir: str | os.PathLike[str]) -> pathlib.Path:
    """Writes workdir/report.html, which can be moved and sent on its own.

    Returns:
      The path of the report.

    Raises:
      UsageError: workdir holds no trained run, or cannot be written.
    """
    folder = files.local_folder(workdir)
    run = load(folder)
    runs = [run, *(load(folder / name, name) for name in run.experiment.config.baselines)]
    task = describe_task(run.experiment.spec, run.record["shots"])
    parts = [
        page.heading("Results"),
        tables.results(runs),
        tables.lengths(run),
        tables.learned(run),
        *_figures(runs),
        page.heading("How it was made"),
        f"<pre><code>{page.text(run.record['command'])}</code></pre>",
        tables.origin(run),
        page.details("All settings", tables.settings(run)),
    ]
    title = f"{run.experiment.spec.algorithm}: {task}"
    path = folder / "report.html"
    files.write(path, page.document(title, sentences(runs), parts))
    return path
