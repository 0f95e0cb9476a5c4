"""The report of a run: report.html with figures, made from the files in its workdir."""

import dataclasses
import html
import io
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import matplotlib

from maml_jax.run import files
from maml_jax.run.config import flatten
from maml_jax.run.figures import (
    FITTED_STEPS,
    TASK_FIGURES,
    Draw,
    Run,
    learning_curve,
    length_pictures,
    loss_against_steps,
)
from maml_jax.run.files import DamagedError, Record
from maml_jax.run.metrics import read_metrics
from maml_jax.run.problems import TASKS
from maml_jax.run.workdir import load_run, read_evaluation

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
        _check_tables(record)
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"{workdir / 'evaluation.json'} lacks what a report shows ({error}); the run's train "
            "command makes it again"
        ) from error
    return Run(
        name or experiment.spec.algorithm,
        experiment,
        state.meta_params,
        record,
        list(read_metrics(workdir)),
    )


def _check(record: Record, keys: Iterable[str], kind: Any) -> None:
    for key in keys:
        if not isinstance(record[key], kind):
            raise TypeError(f"{key} is {record[key]!r}"[:80])


def _check_evaluation(record: Record) -> None:
    """Raises a KeyError, TypeError or AttributeError if a field is missing or of a wrong type."""
    _check(record, ["command"], str)
    measures = [name for name in ("loss", "accuracy") if name in record] or ["loss"]
    for part in (record, record.get("selected", {}), record.get("soft", {})):
        whole = {**record, **part}
        _check(whole, _COUNTS, int)
        _check(whole, ["inner_step_size"], _NUMBER | None)
        for name in [f"{measure}{of}" for measure in measures for of in ("", "_ci95")]:
            _check(whole, [name], list)
            row = {f"{name}[{k}]": value for k, value in enumerate(whole[name])}
            _check(row, row, _NUMBER)
            if len(row) != whole["num_steps"] + 1:
                raise TypeError(f"{name} has {len(row)} numbers")


def _check_tables(record: Record) -> None:
    if "lengths" in record:
        _check(record["lengths"], [f"length/{name}" for name in _LENGTHS], _NUMBER)
        _check(record["lengths"], ["inner_compute", "inner_compute_share"], _NUMBER)
    for of in record.get("learned", {}).values():
        _check(of, ["min", "mean", "max"], _NUMBER)


def _table(rows: list[list[str]]) -> str:
    head, *body = rows
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = [f"<tr>{cells}</tr>"]
    for row in body:
        lines.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _results_table(runs: list[Run]) -> str:
    """One row for each run, and one for its validation-selected parameters."""
    records = [(run.name, run.record) for run in runs]
    for run in runs:
        if "selected" in run.record:
            selected = run.record | run.record["selected"]
            records.append((f"{run.name}, selected by validation", selected))
        if "soft" in run.record:
            records.append((f"{run.name}, soft gates", run.record | run.record["soft"]))
    measure = "accuracy" if "accuracy" in runs[0].record else "loss"
    last = len(runs[0].record[measure]) - 1
    shown = [step for step in (0, *FITTED_STEPS) if step < last] + [last]
    head = ["run", "meta-steps", "step size", *(f"{measure} after {step}" for step in shown)]
    rows = [[*head, "left out"]]
    for name, record in records:
        mean, ci95 = record[measure], record[f"{measure}_ci95"]
        values = [f"{mean[k]:.4f} ± {ci95[k]:.4f}" if k < len(mean) else "" for k in shown]
        step_size = record["inner_step_size"]
        step_size = "learned" if step_size is None else f"{step_size:g}"
        left_out = str(record["nonfinite_episodes"])
        rows.append([name, str(record["meta_step"]), step_size, *values, left_out])
    return _table(rows)


def _lengths_table(run: Run) -> str:
    """Statistics of the learned lengths; nothing if none are learned."""
    if "lengths" not in run.record:
        return ""
    of = run.record["lengths"]
    names = ("mean", "p90", "p99", "max")
    head = ["K", *names, "at 0", "at K_max", "inner compute, MFLOP", "of K_max full steps"]
    shares = [of["length/share_at_0"], of["length/share_at_most"]]
    row = ["over parameters", *(f"{of[f'length/{name}']:.2f}" for name in names)]
    row += [f"{share:.2%}" for share in shares]
    return _table(
        [head, [*row, f"{of['inner_compute'] / 1e6:.4g}", f"{of['inner_compute_share']:.1%}"]]
    )


def _learned_table(run: Run) -> str:
    """Learned step sizes and hyper-parameters of the inner optimizer; of a matrix M, M - I."""
    if "learned" not in run.record:
        return ""
    rows = [["learned", "min", "mean", "max"]]
    for name, of in run.record["learned"].items():
        rows.append([name, *(f"{of[column]:.4g}" for column in rows[0][1:])])
    return _table(rows)


def _images(runs: list[Run], workdir: pathlib.Path) -> str:
    """Draws the figures into PNGs and names them."""
    task = runs[0].experiment.spec.task.name
    figures: dict[str, Draw] = {
        "learning_curve": learning_curve,
        "loss_against_steps": loss_against_steps,
        **(TASKS[task].figures or TASK_FIGURES.get(task, {})),
        **length_pictures(runs),
    }
    images = []
    for name, draw in figures.items():
        figure, png = draw(runs), io.BytesIO()
        if figure is None:
            continue
        figure.savefig(png, dpi=120, format="png")
        files.write(workdir / f"{name}.png", png.getvalue())
        title, source = name.replace("_", " ").capitalize(), f"{name}.png"
        images.append(f'<h2>{html.escape(title)}</h2><img src="{html.escape(source)}">')
    return "".join(images)


def _settings_table(run: Run) -> str:
    chosen = dict(flatten(dataclasses.asdict(run.experiment.spec)))
    settings = [["key", "value"]]
    for key, value in flatten(run.experiment.config):
        text = repr(value)
        if value == "auto" and chosen.get(key, value) != value:
            text = f"{value!r}, here {chosen[key]!r}"
        settings.append([key, text])
    return _table(settings)


def write_report(workdir: str | os.PathLike[str]) -> pathlib.Path:
    """Writes workdir/report.html and its PNGs.

    Returns:
      The path of the report.

    Raises:
      UsageError: workdir holds no trained run, or cannot be written.
    """
    matplotlib.use("agg")
    folder = files.local_folder(workdir)
    run = load(folder)
    config, record = run.experiment.config, run.record
    runs = [run, *(load(folder / name, name) for name in config.baselines)]
    title = f"{config.algorithm} on {config.task.name}, {record['meta_step']} meta-steps"
    title = html.escape(title)
    episodes = (
        f"{record['num_episodes']} held-out {record['shots']}-shot episodes, "
        "mean ± 95% confidence interval."
    )
    path = folder / "report.html"
    files.write(
        path,
        "<!doctype html><meta charset=utf-8><style>body{font:16px sans-serif;max-width:70em;"
        "margin:2em auto}td,th{padding:.2em .8em;text-align:left}img{max-width:100%}</style>"
        f"<title>{title}</title><h1>{title}</h1><p>{html.escape(episodes)}</p>"
        f"{_results_table(runs)}{_lengths_table(run)}{_learned_table(run)}"
        f"{_images(runs, folder)}<h2>Config</h2>"
        f"<p><code>{html.escape(record['command'])}</code></p>{_settings_table(run)}\n",
    )
    return path
