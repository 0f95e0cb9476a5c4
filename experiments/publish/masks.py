"""The figure of sparse-MAML's finding: the deeper a layer, the more of its weights adapt.

python -m experiments.publish.masks sparse-maml-cifar-fs-5way-5shot-cpu

Draws the learned masks of rows of the ledger, layer by layer, with one mark for each seed, and
writes experiments/results/ledger/ROW.png.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from experiments import cli
from experiments.ledger import records
from experiments.publish.formats import layer_name
from experiments.publish.results import Record
from maml_jax.errors import UsageError
from maml_jax.run.figures.style import STYLE, single

ROW = "sparse-maml-cifar-fs-5way-5shot-cpu"


def shares(runs: Sequence[Record]) -> dict[str, np.ndarray]:
    """Layer -> share of its kernel's weights that adapt at all, [seeds]; the first layer first."""
    counts = [run["length_counts"] for run in runs]
    return {
        layer_name(path): np.array([1 - of[path][0] / sum(of[path]) for of in counts])
        for path in counts[0]
        if path.endswith("/kernel")
    }


def draw(layers: dict[str, np.ndarray]) -> Figure:
    """Bars of means over seeds, with a mark for each seed."""
    with matplotlib.rc_context(STYLE):
        seeds = len(next(iter(layers.values())))
        figure, axes = single(f"Weights that adapt ({seeds} seed{'s' * (seeds != 1)})")
        places = np.arange(len(layers))
        values = 100 * np.stack([*layers.values()])
        axes.bar(places, values.mean(1), width=0.6, alpha=0.4)
        axes.plot(places, values, "o", color="black", markersize=3)
        axes.set_xticks(places, [*layers])
        axes.set(xlabel="layer, from the image to the classes", ylabel="share of its weights, %")
        axes.set_ylim(0, 100)
    return figure


def kept(name: str) -> list[Record]:
    """The runs of a row with learned lengths.

    Raises:
      UsageError: it was not run, or learns none.
    """
    runs = records.read(name)
    if not runs or "length_counts" not in runs[0]:
        reason = "learns no lengths" if runs else "was not run"
        raise UsageError(f"the row {name} {reason}; use one of sparse-MAML, as {ROW}")
    return runs


def main(arguments: list[str]) -> None:
    """Draws, and prints the paths."""
    for name in arguments[1:] or [ROW]:
        path = records.ledger() / f"{name}.png"
        draw(shares(kept(name))).savefig(path, dpi=100)
        print(path)


if __name__ == "__main__":
    cli.run(main, takes_arguments=True)
