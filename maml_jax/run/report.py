"""The report of a run: report.html with figures, made from the files in its workdir."""

import dataclasses
import html
import pathlib

import matplotlib

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
from maml_jax.run.metrics import read_metrics
from maml_jax.run.problems import TASKS
from maml_jax.run.workdir import load_run, read_evaluation


def load(workdir: pathlib.Path, name: str = "") -> Run:
    """Reads a finished run.

    Raises:
      UsageError: there is no finished run or no readable checkpoint in workdir.
    """
    experiment, state = load_run(workdir)
    return Run(
        name or experiment.spec.algorithm,
        experiment,
        state.meta_params,
        read_evaluation(workdir),
        list(read_metrics(workdir)),
    )


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
            records.append((f"{run.name}, selected by validation", run.record["selected"]))
        if "soft" in run.record:
            records.append((f"{run.name}, soft gates", run.record | run.record["soft"]))
    measure = "accuracy" if "accuracy" in runs[0].record else "loss"
    last = len(runs[0].record[measure]) - 1
    shown = [step for step in (0, *FITTED_STEPS) if step < last] + [last]
    head = ["run", "meta-steps", "step size", *(f"{measure} after {step}" for step in shown)]
    rows = [[*head, "left out"]]
    for name, record in records:
        values = [f"{record[measure][k]:.4f} ± {record[measure + '_ci95'][k]:.4f}" for k in shown]
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


def write_report(workdir: str | pathlib.Path) -> pathlib.Path:
    """Writes workdir/report.html and its PNGs.

    Returns:
      The path of the report.

    Raises:
      UsageError: workdir holds no trained run.
    """
    matplotlib.use("agg")
    workdir = pathlib.Path(workdir)
    run = load(workdir)
    config = run.experiment.config
    runs = [run, *(load(workdir / name, name) for name in config.baselines)]
    figures: dict[str, Draw] = {
        "learning_curve": learning_curve,
        "loss_against_steps": loss_against_steps,
        **(TASKS[config.task.name].figures or TASK_FIGURES.get(config.task.name, {})),
        **length_pictures(runs),
    }
    images = []
    for name, draw in figures.items():
        draw(runs).savefig(workdir / f"{name}.png", dpi=120)
        images.append(f'<h2>{name.replace("_", " ").capitalize()}</h2><img src="{name}.png">')
    chosen = dict(flatten(dataclasses.asdict(run.experiment.spec)))
    settings = [["key", "value"]]
    for key, value in flatten(config):
        text = repr(value)
        if value == "auto" and chosen.get(key, value) != value:
            text = f"{value!r}, here {chosen[key]!r}"
        settings.append([key, text])
    title = f"{config.algorithm} on {config.task.name}, {run.record['meta_step']} meta-steps"
    episodes = (
        f"{run.record['num_episodes']} held-out {run.record['shots']}-shot episodes, "
        "mean ± 95% confidence interval."
    )
    path = workdir / "report.html"
    path.write_text(
        "<!doctype html><meta charset=utf-8><style>body{font:16px sans-serif;max-width:70em;"
        "margin:2em auto}td,th{padding:.2em .8em;text-align:left}img{max-width:100%}</style>"
        f"<title>{title}</title><h1>{title}</h1><p>{episodes}</p>{_results_table(runs)}"
        f"{_lengths_table(run)}{_learned_table(run)}{''.join(images)}<h2>Config</h2>"
        f"<p><code>{html.escape(run.record['command'])}</code></p>{_table(settings)}\n"
    )
    return path
