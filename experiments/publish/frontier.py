"""Figure of accuracy (or loss) against inner compute C for the arms of the kept studies.

python -m experiments.publish.frontier --task=omniglot

Every arm is a curve over its inner steps, averaged over seeds, with a marker where it ends. The
best corner is the lower left for a median loss and the upper left for an accuracy. Of the study of
accelerated methods it shows the best gradient descent and the best four others, at each K_max.
Writes experiments/results/frontier_TASK.png.

For the sinusoid it also draws the median loss against the 99th percentile of K, one curve per arm
over the costs of a step that it was trained with: experiments/results/prices.png.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import cli
from experiments.publish import results
from experiments.publish.results import Record
from experiments.publish.study_tables import runs_by_cost
from experiments.studies import task_flag
from experiments.studies.comparisons import last, length_statistic, paired_interval
from experiments.studies.task_flag import TASK

flags.adopt_module_key_flags(task_flag)
EQUAL_COMPUTE_ARMS = (
    "maml",
    "maml_k_max",
    "anil",
    "meta_sgd",
    "maml_plus_plus",
    "sparse_maml",
    "adaptive_k",
    "adaptive_k_rates",
)
BEST = 4
# A single diverged task in thousands can dominate a mean of losses.
_MEASURE = {"sinusoid": "loss_median", "omniglot": "accuracy"}


def curves(task: str) -> dict[str, Record]:
    """Label -> arm: those at equal compute, then the baseline and BEST others at each K_max."""
    arms: dict[str, Record] = {}
    for path in sorted(results.RESULTS.glob(f"halting_{task}*.json")):
        kept = results.read(path.stem)["arms"]
        arms |= {name: kept[name] for name in EQUAL_COMPUTE_ARMS if name in kept}
    for path in sorted(results.RESULTS.glob(f"acceleration_{task}_*.json")):
        if "_seeds_" not in path.stem:  # a repetition
            setting = path.stem.removeprefix(f"acceleration_{task}_").replace("_cost_", ", cost ")
            record = results.read(path.stem)
            for name in (record["reference"], *_best_accelerated(record, _MEASURE[task])):
                arms[f"adaptive_k + {name}, K_max {setting}"] = record["arms"][name]
    return arms


def _best_accelerated(record: Record, measure: str) -> list[str]:
    scores = {
        row["arm"]: row[measure]["mean"]
        for row in record["rows"]
        if "inner.optimizer" in record["arms"][row["arm"]]["overrides"]
    }
    return sorted(scores, key=scores.__getitem__, reverse=measure == "accuracy")[:BEST]


def draw(task: str) -> Figure:
    """One curve per arm; steps after the last one that costs anything are left out."""
    measure, arms = _MEASURE[task], curves(task)
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(color=matplotlib.colormaps["tab20"](np.linspace(0, 1, len(arms))))
    for name, arm in arms.items():
        _draw_arm(axes, name, arm, measure)
    axes.set(
        xlabel="inner compute C, MFLOP per task",
        ylabel=f"{measure.replace('_', ', ')} of test tasks",
    )
    if measure == "loss_median":
        axes.set_yscale("log")
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _draw_arm(axes: Axes, name: str, arm: Record, measure: str) -> None:
    runs = arm["runs"]
    compute = np.mean([run["inner_compute"] for run in runs], axis=0) / 1e6
    values = np.mean([run[measure] for run in runs], axis=0)
    ends = int(np.argmax(compute >= compute[-1]))
    style = "--" if " + " in name else "-"
    (line,) = axes.plot(compute[: ends + 1], values[: ends + 1], style, label=name, alpha=0.8)
    axes.plot(compute[ends], values[-1], "o", color=line.get_color())


def draw_costs() -> Figure:
    """Mean over seeds with 95% t-intervals; points are labelled with the cost of a step."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()

    def intervals(values: Sequence[np.ndarray]) -> np.ndarray:
        return np.transpose([paired_interval(of_seeds, 0.0) for of_seeds in values])

    for arm, of in runs_by_cost().items():
        p99, p99_ci = intervals([length_statistic(runs, "p99") for runs in of.values()])
        loss, loss_ci = intervals([last(runs, "loss_median") for runs in of.values()])
        axes.errorbar(p99, loss, loss_ci, p99_ci, marker="o", capsize=2, label=arm, alpha=0.8)
        for cost, x, y in zip(of, p99, loss, strict=True):
            axes.annotate(f"{cost}", (x, y), (4, 4), textcoords="offset points")
    axes.set(xlabel="99th percentile of K", ylabel="median loss of test tasks", yscale="log")
    axes.legend(title="at a relative cost of a step", fontsize="small")
    return figure


def main(_: list[str]) -> None:
    """Draws and keeps."""
    figures = {f"frontier_{TASK.value}": draw(TASK.value)}
    if TASK.value == "sinusoid":
        figures["prices"] = draw_costs()
    for name, figure in figures.items():
        path = results.RESULTS / f"{name}.png"
        figure.savefig(path, dpi=100)
        print(path)


if __name__ == "__main__":
    cli.run(main)
