"""Figure of accuracy (or loss) against inner compute C for the arms of the kept studies.

python -m experiments.frontier --task=omniglot

Every arm is a curve over its inner steps, mean over seeds, with a marker where it ends; the lower
left of a median loss, or the upper left of an accuracy, is best. Of the study of accelerated
methods the best gradient descent and the best four others, at each K_max; a hollow marker is where
an arm ends with its optimizer's own matrix products, which C leaves out, in all its steps (at most:
a tensor that has halted needs none). Writes experiments/results/frontier_TASK.png.

Of the sinusoid also median loss against the 99th percentile of K, a curve an arm over the prices of
a step that it was trained at: experiments/results/prices.png.
"""

from typing import Any

import matplotlib
import numpy as np
from absl import flags
from matplotlib.figure import Figure

from experiments import cli, results_io, studies, tables, task_flag
from experiments.task_flag import TASK

flags.adopt_module_key_flags(task_flag)
HALTING = (
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
# A mean of losses is decided by the one task in thousands that diverges.
_MEASURE = {"sinusoid": "loss_median", "omniglot": "accuracy"}


def curves(task: str) -> dict[str, dict[str, Any]]:
    """Label -> arm: HALTING of that study; at each K_max the reference and BEST others."""
    measure = _MEASURE[task]
    arms: dict[str, dict[str, Any]] = {}
    for path in sorted(results_io.RESULTS.glob(f"halting_{task}*.json")):
        kept = results_io.read(path.stem)["arms"]
        arms |= {name: kept[name] for name in HALTING if name in kept}
    for path in sorted(results_io.RESULTS.glob(f"acceleration_{task}_*.json")):
        if "_seeds_" in path.stem:  # the same once more
            continue
        record = results_io.read(path.stem)
        setting = path.stem.removeprefix(f"acceleration_{task}_").replace("_cost_", ", cost ")
        scores = {
            row["arm"]: row[measure]["mean"]
            for row in record["rows"]
            if "inner.optimizer" in record["arms"][row["arm"]]["overrides"]
        }
        best = sorted(scores, key=scores.__getitem__, reverse=measure == "accuracy")[:BEST]
        for name in (record["reference"], *best):
            arms[f"adaptive_k + {name}, K_max {setting}"] = record["arms"][name]
    return arms


def draw(task: str) -> Figure:
    """One curve an arm; steps after the last that costs anything are left out."""
    measure = _MEASURE[task]
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    arms = curves(task)
    axes.set_prop_cycle(color=matplotlib.colormaps["tab20"](np.linspace(0, 1, len(arms))))
    for name, arm in arms.items():
        runs = arm["runs"]
        compute = np.mean([run["inner_compute"] for run in runs], axis=0) / 1e6
        values = np.mean([run[measure] for run in runs], axis=0)
        ends = int(np.argmax(compute >= compute[-1]))
        style = "--" if " + " in name else "-"
        (line,) = axes.plot(compute[: ends + 1], values[: ends + 1], style, label=name, alpha=0.8)
        axes.plot(compute[ends], values[-1], "o", color=line.get_color())
        if arm.get("optimizer_flops"):
            longest = studies.of_lengths(runs, "max").mean()
            whole = compute[ends] + arm["optimizer_flops"] * longest / 1e6
            axes.plot(
                [compute[ends], whole],
                [values[-1]] * 2,
                "o:",
                color=line.get_color(),
                fillstyle="none",
            )
    axes.set(
        xlabel="inner compute C, MFLOP per task",
        ylabel=f"{measure.replace('_', ', ')} of test tasks",
    )
    if measure == "loss_median":
        axes.set_yscale("log")
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def draw_prices() -> Figure:
    """Mean over seeds with 95% t-intervals; labelled with the price."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for arm, of in tables.priced().items():
        (p99, p99_ci), (loss, loss_ci) = (
            np.transpose([studies.paired_interval(measure(runs), 0.0) for runs in of.values()])
            for measure in (
                lambda runs: studies.of_lengths(runs, "p99"),
                lambda runs: studies.last(runs, "loss_median"),
            )
        )
        axes.errorbar(p99, loss, loss_ci, p99_ci, marker="o", capsize=2, label=arm, alpha=0.8)
        for price, x, y in zip(of, p99, loss, strict=True):
            axes.annotate(f"{price}", (x, y), (4, 4), textcoords="offset points")
    axes.set(xlabel="99th percentile of K", ylabel="median loss of test tasks", yscale="log")
    axes.legend(title="at a price of a step", fontsize="small")
    return figure


def main(_: list[str]) -> None:
    """Draws and keeps."""
    figures = {f"frontier_{TASK.value}": draw(TASK.value)}
    if TASK.value == "sinusoid":
        figures["prices"] = draw_prices()
    for name, figure in figures.items():
        path = results_io.RESULTS / f"{name}.png"
        figure.savefig(path, dpi=100)
        print(path)


if __name__ == "__main__":
    cli.run(main)
