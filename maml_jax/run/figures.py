"""Figures of the report: learning curves, held-out tasks, and learned lengths."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from maml_jax.keys import stream_key, task_keys
from maml_jax.meta.batching import map_tasks
from maml_jax.run.build import Experiment
from maml_jax.run.learned import Lengths
from maml_jax.tasks import sinusoid
from maml_jax.types import Array, Episode, MetaParams

CONFUSION_EPISODES = 100
FITTED_TASKS = 3
FITTED_STEPS = (1, 5, 10)

Lines = list[dict[str, Any]]  # of metrics.jsonl


class Run(NamedTuple):
    """A trained run, or one of its baselines."""

    name: str
    experiment: Experiment
    meta_params: MetaParams
    record: dict[str, Any]  # evaluation.json
    metrics: list[dict[str, Any]]  # lines of metrics.jsonl


Draw = Callable[[list[Run]], Figure | None]  # of the run and its baselines; None: nothing to show


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


def fitted_waves(runs: list[Run]) -> Figure | None:
    """A few held-out waves, and how each network fits them before and after 1, 5 and 10 steps."""
    runs = [run for run in runs if not run.experiment.spec.task.oracle]
    if not runs:
        return None
    figure = Figure(figsize=(5 * len(runs), 3 * FITTED_TASKS), layout="constrained")
    grid = figure.subplots(FITTED_TASKS, len(runs), squeeze=False, sharex=True, sharey="row")
    for column, run in enumerate(runs):
        for row in range(FITTED_TASKS):
            _plot_wave(grid[row, column], run, row)
        grid[0, column].set_title(f"{run.name}, {run.record['shots']} support points")
    grid[0, -1].legend(loc="upper right", fontsize="x-small")
    return figure


def _plot_wave(axes: Axes, run: Run, task: int) -> None:
    key = jax.random.fold_in(stream_key(run.experiment.spec.seed, "test"), task)
    wave_key, support_key = jax.random.split(key)
    wave = sinusoid.sample_wave(wave_key)
    low, high = sinusoid.INPUT
    shape = (run.record["shots"], 1)
    support = sinusoid.examples(wave, jax.random.uniform(support_key, shape, float, low, high))
    inputs = jnp.linspace(low, high, 200)[:, None]
    grid = sinusoid.examples(wave, inputs)
    meta_params = run.meta_params
    if run.record["inner_step_size"] is not None:
        meta_params = meta_params._replace(step_sizes=run.record["inner_step_size"])
    fits = run.experiment.inner_loop(max(FITTED_STEPS))(
        meta_params,
        support,
        key,
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
    spec, problem = run.experiment.spec, run.experiment.problem
    sample = problem.sampler(spec.eval.shots, spec.eval.query_shots, "test")

    def predict(key: Array) -> tuple[Episode, Array]:
        episode_key, adapt_key = jax.random.split(key)
        episode = sample(episode_key)
        adaptation = run.experiment.inner_loop(spec.eval.num_steps)(
            run.meta_params,
            episode.support,
            adapt_key,
            monitor=lambda params, k: problem.predict(params, episode.query),
        )
        return episode, adaptation.monitored

    chunk = min(number, spec.eval.chunk)
    episode_keys = task_keys(stream_key(spec.seed, "test"), jnp.asarray(0), jnp.arange(number))
    episodes, logits = jax.jit(lambda drawn: map_tasks(predict, drawn, chunk=chunk))(episode_keys)
    return episodes, np.asarray(logits)


def episode_picture(runs: list[Run]) -> Figure | None:
    """One test episode: support and query images, with the predictions before and after."""
    run = runs[0]
    spec, inputs = run.experiment.spec, run.experiment.problem.inputs
    if inputs is not None and len(inputs.shape) == 1:  # features
        return None
    episodes, logits = _test_predictions(run, 1)
    before, after = (logits[0, step].argmax(-1) for step in (0, -1))
    ways, shots, queries = spec.task.ways, spec.eval.shots, min(spec.eval.query_shots, 5)
    support = np.asarray(episodes.support.inputs[0])
    # With normalization="support" the query inputs begin with the support images.
    query = np.asarray(episodes.query.inputs[0])[-ways * spec.eval.query_shots :]
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
            index = way * spec.eval.query_shots + column - shots
            right = "tab:green" if after[index] == way else "tab:red"
            _show(axes, query[index], f"{before[index]} → {after[index]}", right)
    figure.suptitle("support | query: before → after", fontsize="small")
    return figure


def _show(axes: Axes, image: np.ndarray, title: str, color: str = "black") -> None:
    low, high = image.min(), image.max()
    scaled = (image - low) / max(high - low, 1e-6)
    axes.imshow(scaled[..., 0] if image.shape[-1] == 1 else scaled, cmap="gray")
    axes.set_title(title, fontsize="x-small", color=color)


def confusion(runs: list[Run]) -> Figure:
    """Confusion matrix over test episodes after the last inner step."""
    run = runs[0]
    ways = run.experiment.spec.task.ways
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


def histograms(lengths: Lengths, most: int) -> Figure:
    """Histogram of K over the parameters of each tensor."""
    figure = Figure(figsize=(9, 1.4 * len(lengths) + 0.6), layout="constrained")
    grid = figure.subplots(len(lengths), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (path, value) in zip(grid, lengths.items(), strict=True):
        counts = np.bincount(value.ravel(), minlength=most + 1) / value.size
        axes.bar(np.arange(len(counts)), counts, width=0.9)
        axes.set(ylim=(0, 1), ylabel="share")
        axes.set_title(f"{path} {list(value.shape)}, mean {value.mean():.1f}", fontsize="small")
    grid[-1].set_xlabel("K, inner steps")
    return figure


def filter_maps(lengths: Lengths, most: int) -> Figure | None:
    """Heat map of K over the inputs and outputs of each matrix or convolution.

    Rows are inputs (kernel positions × channels of a convolution), columns are filters.
    """
    kernels = {path: value for path, value in lengths.items() if value.ndim > 1}
    if not kernels:
        return None
    figure = Figure(figsize=(3.2 * len(kernels) + 1, 4), layout="constrained")
    grid = figure.subplots(1, len(kernels), squeeze=False)[0]
    for axes, (path, value) in zip(grid, kernels.items(), strict=True):
        rows = value.reshape(-1, value.shape[-1])
        image = axes.imshow(rows, aspect="auto", vmin=0, vmax=most, interpolation="nearest")
        axes.set(title=path, xlabel="filter")
    grid[0].set_ylabel("kernel position, input")
    figure.colorbar(image, ax=grid, label="K")
    return figure


def share_alive(lengths: Lengths, num_steps: int) -> Figure:
    """Share of each tensor's parameters that still adapt, against the inner step."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps = np.arange(num_steps)
    for path, value in lengths.items():
        shares = [(value > k).mean() for k in steps]
        axes.step(steps, shares, where="mid", label=path)
    every = np.concatenate([value.ravel() for value in lengths.values()])
    axes.step(steps, [(every > k).mean() for k in steps], "k--", where="mid", label="all")
    axes.set(xlabel="inner step k", ylabel="share that adapts", ylim=(-0.02, 1.02))
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def compute_over_training(lines: Lines) -> Figure:
    """Inner compute C, and mean and high percentiles of K, against meta-steps."""
    lines = [line for line in lines if "inner_compute" in line]
    steps = [line["step"] for line in lines]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(steps, [line["inner_compute"] / 1e6 for line in lines], marker=".")
    left.set(xlabel="meta-step", ylabel="C, MFLOP per task", ylim=(0, None))
    for name in ("mean", "p90", "p99", "max"):
        right.plot(
            steps, [line.get(f"length/{name}", np.nan) for line in lines], marker=".", label=name
        )
    right.set(xlabel="meta-step", ylabel="K over parameters")
    right.legend()
    return figure


def sparsity_over_training(lines: Lines) -> Figure:
    """Share of each tensor's parameters with K = 0, against meta-steps, as in sparse-MAML."""
    prefix = "sparsity/"
    lines = [line for line in lines if "inner_compute" in line]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name in (name for name in (lines[0] if lines else {}) if name.startswith(prefix)):
        values = [line.get(name, np.nan) for line in lines]
        steps = [line["step"] for line in lines]
        axes.plot(steps, values, marker=".", label=name.removeprefix(prefix))
    axes.set(xlabel="meta-step", ylabel="share with K = 0", ylim=(-0.02, 1.02))
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def length_pictures(runs: list[Run]) -> dict[str, Draw]:
    """The figures of a run's learned lengths; none if it has none."""
    run = runs[0]
    learned = run.experiment.learned
    if learned.gates is None:
        return {}
    lengths, most = learned.lengths(run.meta_params), learned.most
    return {
        "length_histograms": lambda _: histograms(lengths, most),
        "length_maps": lambda _: filter_maps(lengths, most),
        "share_alive": lambda _: share_alive(lengths, run.experiment.spec.eval.num_steps),
        "compute_over_training": lambda _: compute_over_training(run.metrics),
        "sparsity_over_training": lambda _: sparsity_over_training(run.metrics),
    }


TASK_FIGURES: dict[str, dict[str, Draw]] = {
    "sinusoid": {"fitted_waves": fitted_waves},
    "images": {
        "accuracy_against_steps": accuracy_against_steps,
        "episode_picture": episode_picture,
        "confusion": confusion,
    },
}
