"""How networks fit held-out sine waves."""

from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from maml_jax.keys import stream_key
from maml_jax.run.figures.runs import Picture, Run
from maml_jax.run.figures.style import BLUE, VERMILLION, count
from maml_jax.tasks import sinusoid
from maml_jax.types import Array, Examples

TASKS = 3
_SHOWN = (1, 5)  # inner steps, besides the last


def shown_steps(num_steps: int) -> list[int]:
    """The inner steps of which a figure or a table shows the result: 1, 5 and the last."""
    return sorted({step for step in (*_SHOWN, num_steps) if 0 < step <= num_steps})


def fitted_waves(runs: list[Run]) -> Figure:
    """A few held-out waves, and how each network fits them before and after adaptation."""
    figure = Figure(figsize=(3.6 * len(runs) + 1, 2.3 * TASKS))
    grid = figure.subplots(TASKS, len(runs), squeeze=False, sharex=True, sharey="row")
    for column, run in enumerate(runs):
        for row, (wave, support, fits) in enumerate(_fits(run)):
            _plot_wave(grid[row, column], wave, support, fits)
        grid[0, column].set_title(f"{run.name}, {run.shown['shots']} support points")
        grid[-1, column].set_xlabel("input x")
    for axes in grid[:, 0]:
        axes.set_ylabel("output y")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


_Fits = dict[str, np.ndarray]  # label -> outputs [points]


def _fits(run: Run) -> list[tuple[np.ndarray, Examples, _Fits]]:
    """Of each wave: its points [points, 2], the support data and the networks' outputs."""
    spec, record = run.experiment.spec, run.shown
    low, high = sinusoid.INPUT
    inputs, num_steps = jnp.linspace(low, high, 200)[:, None], record["num_steps"]
    meta_params = run.meta_params
    if record["inner_step_size"] is not None:
        meta_params = meta_params._replace(step_sizes=jnp.float32(record["inner_step_size"]))

    def fit(task: Array) -> tuple[Array, Examples, Array]:
        key = jax.random.fold_in(stream_key(spec.seed, "test"), task)
        wave_key, support_key = jax.random.split(key)
        wave = sinusoid.sample_wave(wave_key)
        points = jax.random.uniform(support_key, (record["shots"], 1), float, low, high)
        oracle = spec.task.oracle
        support = sinusoid.examples(wave, points, oracle=oracle)
        grid = sinusoid.examples(wave, inputs, oracle=oracle)
        adaptation = run.experiment.inner_loop(num_steps)(
            meta_params,
            support,
            key,
            monitor=lambda params, k: run.experiment.problem.predict(params, grid),
        )
        return grid.targets, support, adaptation.monitored

    drawn = jax.device_get(jax.jit(jax.vmap(fit))(jnp.arange(TASKS)))
    fits = []
    for task in range(TASKS):
        truth, support, outputs = jax.tree.map(itemgetter(task), drawn)
        labelled = {"before": outputs[0, :, 0]}
        for step in shown_steps(num_steps):
            labelled[f"{step} step{'s' if step > 1 else ''}"] = outputs[step, :, 0]
        fits.append((np.stack([inputs[:, 0], truth[:, 0]], 1), support, labelled))
    return fits


def _plot_wave(axes: Axes, wave: np.ndarray, support: Examples, fits: _Fits) -> None:
    shades = np.linspace(0.45, 1.0, max(len(fits) - 1, 1))
    styles = ["-.", "--", "-"][-len(shades) :]
    axes.plot(*wave.T, color="black", linewidth=2.6, alpha=0.35, marker="", label="truth")
    for number, (label, outputs) in enumerate(fits.items()):
        colour, style, shade = "#767676", ":", 1.0
        if number:
            colour, style, shade = BLUE, styles[number - 1], shades[number - 1]
        axes.plot(wave[:, 0], outputs, style, color=colour, alpha=shade, marker="", label=label)
    points = (np.asarray(support.inputs)[:, 0], np.asarray(support.targets)[:, 0])
    axes.plot(*points, "^", color=VERMILLION, markersize=7, zorder=3, label="support points")
    count(axes.xaxis)


WAVES = Picture(
    "Three test waves",
    "Each row is a new sine wave (thick grey line), each column a network: its output before "
    "adaptation (dotted) and after gradient steps on the support points (triangles). An oracle "
    "knows amplitude and phase from the start.",
    fitted_waves,
)
