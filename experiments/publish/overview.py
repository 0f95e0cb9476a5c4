"""The picture of the README: docs/overview.png.

python -m experiments.publish.overview

Left, the pretrained sinusoid model on a new wave, before and after adaptation. Right, the learned
lengths of `adaptive_k_plus_plus` in the result equal_compute_omniglot, layer by layer.
"""

from typing import Any

import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import cli
from experiments.publish.formats import layer_name
from experiments.publish.results import read
from experiments.publish.tables import ROOT
from experiments.studies.comparisons import length_counts
from maml_jax.run import load
from maml_jax.run.figures.style import BLUE, STYLE, VERMILLION, count
from maml_jax.tasks import sinusoid

MODEL = "sinusoid-5shot"
STUDY, ARM = "equal_compute_omniglot", "adaptive_k_plus_plus"
WAVE = sinusoid.SineWave(amplitude=jnp.float32(3.5), phase=jnp.float32(1.0))
POINTS = np.array([-4.2, -2.6, -0.4, 1.9, 3.6], np.float32)[:, None]
_GREY = "#767676"


def draw_wave(axes: Axes) -> None:
    """A new wave, its support points, and the network before and after adaptation."""
    model = load(MODEL)
    steps = model.experiment.spec.eval.num_steps
    inputs = np.linspace(*sinusoid.INPUT, 400, dtype=np.float32)[:, None]
    support = np.asarray(WAVE(jnp.asarray(POINTS)))
    truth = np.asarray(WAVE(jnp.asarray(inputs)))
    before, after = (
        model.adapt(POINTS, support, num_steps=number).predict(inputs).values
        for number in (0, steps)
    )
    plain: dict[str, Any] = {"marker": "", "linewidth": 2}
    axes.plot(inputs, truth, color="black", alpha=0.3, marker="", linewidth=6, label="true wave")
    axes.plot(inputs, before, ":", color=_GREY, label="before adaptation", **plain)
    axes.plot(inputs, after, color=BLUE, label=f"after {steps} gradient steps", **plain)
    style: dict[str, Any] = {"color": VERMILLION, "markersize": 9, "zorder": 3}
    axes.plot(POINTS, support, "^", label=f"the {len(POINTS)} known points", **style)
    axes.set(xlabel="input", ylabel="output", ylim=(-4.6, 7.4))
    axes.set_title("A new sine wave from 5 points")
    axes.legend(loc="upper left", ncols=2, frameon=False)
    count(axes.xaxis)
    count(axes.yaxis)


def shares(counts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Layer -> share of its kernel's weights that take a step, for every step that any takes."""
    kernels = {path: of for path, of in counts.items() if path.endswith("/kernel")}
    last = max(int(np.nonzero(of)[0][-1]) for of in kernels.values())
    return {
        layer_name(path): np.cumsum(of[::-1])[::-1][1 : last + 1] / of.sum()
        for path, of in kernels.items()
    }


def draw_lengths(axes: Axes) -> None:
    """A table of the shares, shaded: layers against inner steps."""
    arm = read(STUDY)["arms"][ARM]
    layers = shares(length_counts(arm))
    table = np.stack([*layers.values()])
    axes.imshow(table, aspect="auto", vmin=0, vmax=1, cmap="Blues")
    for (row, column), share in np.ndenumerate(table):
        colour = "white" if share > 0.6 else "black"
        text = f"{100 * share:.0f}%" if share >= 0.005 else "<1%" if share else "0"
        axes.text(column, row, text, ha="center", va="center", color=colour)
    axes.set_xticks(range(table.shape[1]), [str(k + 1) for k in range(table.shape[1])])
    axes.set_yticks(range(len(layers)), [*layers])
    axes.set(xlabel="inner step")
    axes.set_title("Learned lengths on Omniglot: weights that take each step")
    axes.grid(visible=False)
    axes.tick_params(length=0)


def main(_: list[str]) -> None:
    """Draws and prints the path."""
    with matplotlib.rc_context({**STYLE, "font.size": 12}):
        figure = Figure(figsize=(12, 4.2))
        left, right = figure.subplots(1, 2)
        draw_wave(left)
        draw_lengths(right)
        path = ROOT / "docs" / "overview.png"
        figure.savefig(path, dpi=100)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    cli.run(main)
