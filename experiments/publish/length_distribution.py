"""Figure of the learned lengths in a kept study: share of every tensor's parameters at each K.

python -m experiments.publish.length_distribution --study=equal_compute_sinusoid

One column per arm with learned lengths, one row per tensor, over all seeds; the last bar is K_max.
Writes experiments/results/STUDY_lengths.png.
"""

import numpy as np
from absl import flags
from matplotlib.figure import Figure

from experiments import cli
from experiments.publish import results
from experiments.studies.comparisons import length_counts
from experiments.studies.study import select

_STUDY = flags.DEFINE_string("study", "equal_compute_sinusoid", "name of a kept result")
_ARMS = flags.DEFINE_list("arms", None, "names of arms; all with learned lengths by default")


def draw(arms: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Bars on a logarithmic axis, so that single parameters among thousands can be seen."""
    paths = list(dict.fromkeys(path for counts in arms.values() for path in counts))
    size = (4 * len(arms) + 1, 1.5 * len(paths) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(paths), len(arms), squeeze=False, sharex="col", sharey=True)
    for column, (name, counts) in enumerate(arms.items()):
        for row, path in enumerate(paths):
            axes, values = grid[row, column], counts.get(path)
            if values is None:  # does not adapt in this arm
                axes.set_axis_off()
                continue
            axes.bar(np.arange(len(values)), values / values.sum(), width=0.9)
            axes.set(yscale="log", ylim=(1e-5, 1.5))
            axes.set_title(f"{path}, mean {np.average(range(len(values)), weights=values):.2f}")
            axes.set_ylabel("share" if column == 0 else "")
        grid[0, column].set_title(f"{name}\n{grid[0, column].get_title()}")
        grid[-1, column].set_xlabel("K, inner steps")
    return figure


def main(_: list[str]) -> None:
    """Draws and keeps."""
    arms = results.read(_STUDY.value)["arms"]
    learned = {
        name: arm for name, arm in arms.items() if arm["runs"] and "length_counts" in arm["runs"][0]
    }
    chosen = {name: length_counts(arm) for name, arm in select(learned, _ARMS.value).items()}
    path = results.RESULTS / f"{_STUDY.value}_lengths.png"
    draw(chosen).savefig(path, dpi=80)
    print(path)


if __name__ == "__main__":
    cli.run(main)
