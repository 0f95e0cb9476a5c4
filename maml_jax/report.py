"""A run's report: report.html with figures, made from what the run left in its workdir."""

import html
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from maml_jax import length_figures
from maml_jax.config import automatic, flatten
from maml_jax.experiment import Experiment, stream_key
from maml_jax.meta.tasks import map_tasks, task_keys
from maml_jax.metrics import read_metrics
from maml_jax.tasks import sinusoid
from maml_jax.training import load_run, read_evaluation
from maml_jax.types import Array, Episode, MetaParams

CONFUSION_EPISODES = 100
FITTED_TASKS = 3
FITTED_STEPS = (1, 5, 10)


class Run(NamedTuple):
    """A trained run, or one of its references."""

    name: str
    experiment: Experiment
    meta_params: MetaParams
    record: dict[str, Any]  # evaluation.json
    metrics: list[dict[str, Any]]  # lines of metrics.jsonl


def load(workdir: pathlib.Path, name: str = "") -> Run:
    """Reads a finished run.

    Raises:
      UsageError: there is no finished run or no readable checkpoint in workdir.
    """
    experiment, state = load_run(workdir)
    return Run(
        name or experiment.config.algorithm,
        experiment,
        state.meta_params,
        read_evaluation(workdir),
        list(read_metrics(workdir)),
    )


def learning_curve(runs: list[Run]) -> Figure:
    """Query loss of the training tasks against meta-steps."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for run in runs:
        axes.plot(
            [line["step"] for line in run.metrics if "query_loss" in line],
            [line["query_loss"] for line in run.metrics if "query_loss" in line],
            marker=".",
            label=run.name,
        )
    axes.set(xlabel="meta-step", ylabel="query loss after adaptation (training)", yscale="log")
    axes.legend()
    return figure


def loss_against_steps(runs: list[Run]) -> Figure:
    """Query loss on held-out tasks after every inner step, with 95% confidence intervals."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for run in runs:
        mean, ci95 = np.array(run.record["loss"]), np.array(run.record["loss_ci95"])
        steps = np.arange(len(mean))
        axes.errorbar(steps, mean, ci95, capsize=3, marker="o", label=run.name)
    axes.set(xlabel="inner steps", ylabel="query loss (test, 95% CI)", yscale="log")
    axes.legend()
    return figure


def fitted_waves(runs: list[Run]) -> Figure:
    """A few held-out waves as each network fits them before and after 1, 5 and 10 steps."""
    runs = [run for run in runs if not run.experiment.config.task.oracle]
    figure = Figure(figsize=(5 * len(runs), 3 * FITTED_TASKS), layout="constrained")
    grid = figure.subplots(FITTED_TASKS, len(runs), squeeze=False, sharex=True, sharey="row")
    for column, run in enumerate(runs):
        for row in range(FITTED_TASKS):
            _plot_wave(grid[row, column], run, row)
        grid[0, column].set_title(f"{run.name}, {run.record['shots']} support points")
    grid[0, -1].legend(loc="upper right", fontsize="x-small")
    return figure


def _plot_wave(axes: Any, run: Run, task: int) -> None:
    key = jax.random.fold_in(stream_key(run.experiment.config, "test"), task)
    wave_key, support_key = jax.random.split(key)
    wave = sinusoid.sample_wave(wave_key)
    low, high = sinusoid.INPUT
    shape = (run.record["shots"], 1)
    support = sinusoid.examples(wave, jax.random.uniform(support_key, shape, float, low, high))
    inputs = jnp.linspace(low, high, 200)[:, None]
    grid = sinusoid.examples(wave, inputs)
    meta_params = run.meta_params
    if run.record["inner_learning_rate"] is not None:
        meta_params = meta_params._replace(learning_rates=run.record["inner_learning_rate"])
    fits = run.experiment.adapt_fn(
        meta_params,
        support,
        key,
        num_steps=max(FITTED_STEPS),
        monitor=lambda params, k: run.experiment.problem.predict(params, grid),
    ).monitored
    axes.plot(inputs, wave(inputs), color="tab:red", label="truth")
    axes.plot(inputs, fits[0], ":", color="gray", label="before")
    for step, shade in zip(FITTED_STEPS, (0.4, 0.7, 1.0), strict=True):
        plural = "s" if step > 1 else ""
        axes.plot(inputs, fits[step], color="tab:green", alpha=shade, label=f"{step} step{plural}")
    axes.plot(support.inputs, support.targets, "^", color="tab:purple", label="support")


def accuracy_against_steps(runs: list[Run]) -> Figure:
    """Accuracy on held-out episodes after every inner step, with 95% confidence intervals."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for run in runs:
        mean, ci95 = (100 * np.array(run.record[name]) for name in ("accuracy", "accuracy_ci95"))
        axes.errorbar(np.arange(len(mean)), mean, ci95, capsize=3, marker="o", label=run.name)
    axes.set(xlabel="inner steps", ylabel="accuracy on query images, % (test, 95% CI)")
    axes.legend()
    return figure


def _test_predictions(run: Run, number: int) -> tuple[Episode, np.ndarray]:
    """The first test episodes [number, ...], and logits [number, K+1, Q, N] on their query data."""
    config, problem = run.experiment.config, run.experiment.problem
    sample = problem.sampler(config.eval.shots, config.eval.query_shots, "test")

    def predict(key: Array) -> tuple[Episode, Array]:
        episode_key, adapt_key = jax.random.split(key)
        episode = sample(episode_key)
        adaptation = run.experiment.adapt_fn(
            run.meta_params,
            episode.support,
            adapt_key,
            num_steps=config.eval.num_steps,
            monitor=lambda params, k: problem.predict(params, episode.query),
        )
        return episode, adaptation.monitored

    chunk = min(number, config.eval.chunk)
    keys = task_keys(stream_key(config, "test"), jnp.asarray(0), jnp.arange(number))
    episodes, logits = jax.jit(partial(map_tasks, predict, chunk=chunk))(keys)
    return episodes, np.asarray(logits)


def episode_picture(runs: list[Run]) -> Figure:
    """One test episode: support and query images, with the predictions before and after."""
    run = runs[0]
    config = run.experiment.config
    episodes, logits = _test_predictions(run, 1)
    before, after = (logits[0, step].argmax(-1) for step in (0, -1))
    ways, shots, queries = config.task.ways, config.eval.shots, min(config.eval.query_shots, 5)
    support = np.asarray(episodes.support.inputs[0])
    # With normalization="support" the query inputs begin with the support images.
    query = np.asarray(episodes.query.inputs[0])[-ways * config.eval.query_shots :]
    columns = shots + queries
    figure = Figure(figsize=(1.1 * columns + 1, 1.3 * ways), layout="constrained")
    grid = figure.subplots(ways, columns, squeeze=False)
    for way in range(ways):
        for column in range(columns):
            axes = grid[way, column]
            axes.set(xticks=[], yticks=[])
            if column < shots:
                _show(axes, support[way * shots + column], f"class {way}")
                continue
            index = way * config.eval.query_shots + column - shots
            right = "tab:green" if after[index] == way else "tab:red"
            _show(axes, query[index], f"{before[index]} → {after[index]}", right)
    figure.suptitle("support | query: before → after", fontsize="small")
    return figure


def _show(axes: Any, image: np.ndarray, title: str, color: str = "black") -> None:
    low, high = image.min(), image.max()
    scaled = (image - low) / max(high - low, 1e-6)
    axes.imshow(scaled[..., 0] if image.shape[-1] == 1 else scaled, cmap="gray")
    axes.set_title(title, fontsize="x-small", color=color)


def confusion(runs: list[Run]) -> Figure:
    """Which way is taken for which, over test episodes, after the last inner step."""
    run = runs[0]
    ways = run.experiment.config.task.ways
    episodes, logits = _test_predictions(run, CONFUSION_EPISODES)
    truth, taken = np.asarray(episodes.query.targets), logits[:, -1].argmax(-1)
    counts = np.zeros((ways, ways))
    np.add.at(counts, (truth.ravel(), taken.ravel()), 1)
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(100 * counts / counts.sum(1, keepdims=True), cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, label="% of the true way's query images")
    axes.set(xlabel="predicted way", ylabel="true way")
    return figure


def length_pictures(runs: list[Run]) -> dict[str, Callable[[list[Run]], Figure]]:
    """The figures of a run's learned lengths; none where it has none."""
    run = runs[0]
    schedule = run.experiment.schedule
    if schedule.halting is None:
        return {}
    lengths, most = schedule.lengths(run.meta_params), schedule.most
    return {
        "length_histograms": lambda _: length_figures.histograms(lengths, most),
        "length_maps": lambda _: length_figures.filter_maps(lengths, most),
        "share_alive": lambda _: length_figures.share_alive(
            lengths, run.experiment.config.eval.num_steps
        ),
        "compute_over_training": lambda _: length_figures.compute_over_training(run.metrics),
        "sparsity_over_training": lambda _: length_figures.sparsity_over_training(run.metrics),
    }


TASK_FIGURES: dict[str, dict[str, Callable[[list[Run]], Figure]]] = {
    "sinusoid": {"fitted_waves": fitted_waves},
    "images": {
        "accuracy_against_steps": accuracy_against_steps,
        "episode_picture": episode_picture,
        "confusion": confusion,
    },
}


def _table(rows: list[list[str]]) -> str:
    head, *body = rows
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = [f"<tr>{cells}</tr>"]
    for row in body:
        lines.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _results_table(runs: list[Run]) -> str:
    """One row a run, and one for its validation-selected parameters."""
    records = [(run.name, run.record) for run in runs]
    for run in runs:
        if "selected" in run.record:
            records.append((f"{run.name}, selected by validation", run.record["selected"]))
        if "soft" in run.record:
            records.append((f"{run.name}, soft gates", run.record | run.record["soft"]))
    measure = "accuracy" if "accuracy" in runs[0].record else "loss"
    last = len(runs[0].record[measure]) - 1
    shown = [step for step in (0, *FITTED_STEPS) if step < last] + [last]
    head = ["run", "meta-steps", "inner rate", *(f"{measure} after {step}" for step in shown)]
    rows = [[*head, "left out"]]
    for name, record in records:
        values = [f"{record[measure][k]:.4f} ± {record[measure + '_ci95'][k]:.4f}" for k in shown]
        rate = record["inner_learning_rate"]
        rate = "learned" if rate is None else f"{rate:g}"
        left_out = str(record["nonfinite_episodes"])
        rows.append([name, str(record["meta_step"]), rate, *values, left_out])
    return _table(rows)


def _lengths_table(run: Run) -> str:
    """Numbers of the learned lengths; nothing where none are learned."""
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
    """Learned step sizes and values of the inner optimizer; of a matrix M, M - I."""
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
    runs = [run, *(load(workdir / name, name) for name in config.references)]
    figures: dict[str, Callable[[list[Run]], Figure]] = {
        "learning_curve": learning_curve,
        "loss_against_steps": loss_against_steps,
        **TASK_FIGURES.get(config.task.name, {}),
        **length_pictures(runs),
    }
    images = []
    for name, draw in figures.items():
        draw(runs).savefig(workdir / f"{name}.png", dpi=120)
        images.append(f'<h2>{name.replace("_", " ").capitalize()}</h2><img src="{name}.png">')
    chosen = automatic(config)
    settings = [["key", "value"]]
    for key, value in flatten(config):
        text = (
            f"{value!r}, here {chosen[key]!r}" if value == "auto" and key in chosen else repr(value)
        )
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
