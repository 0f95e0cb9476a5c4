"""Shows the lengths, step sizes and inner optimizer that a run has learned, tensor by tensor.

python -m experiments.lengths --workdir=runs/adaptive_k

--caps=10,15 also shows what long lengths are worth: the loss on validation tasks with every length
above a cap cut to it, without training again.
"""

import pathlib
from collections.abc import Callable

import numpy as np
from absl import flags

from experiments import cli
from maml_jax.run.build import Experiment
from maml_jax.run.learned import LearnedSummary
from maml_jax.run.workdir import load_run
from maml_jax.types import MetaParams

_WORKDIR = cli.define_workdir()
_CAPS = flags.DEFINE_list("caps", [], "lengths to cut longer ones to")
_STATISTICS: dict[str, Callable[[np.ndarray], float]] = {
    "min": np.min,
    "mean": np.mean,
    "p90": lambda value: np.percentile(value, 90),
    "p99": lambda value: np.percentile(value, 99),
    "max": np.max,
}


def print_cut(experiment: Experiment, meta_params: MetaParams, caps: list[int]) -> None:
    """One row a cap: mean and median loss over validation tasks."""
    print("\ncap  mean loss  median")
    for cap in (experiment.learned.most, *caps):
        cut = experiment.learned.cut(meta_params, cap)
        loss = experiment.evaluate(cut, "validation").estimates["loss"]
        print(f"{cap:<4d} {loss.mean[-1]:<10.4g} {loss.median[-1]:.4g}")


def table(learned: LearnedSummary, meta_params: MetaParams) -> list[list[str]]:
    """One row a tensor, below the head: its lengths and step sizes."""
    sizes, most = learned.step_sizes(meta_params), learned.most
    head = ["tensor", "shape", *(f"K {name}" for name in _STATISTICS), "at 0", f"at {most}"]
    rows = [[*head, "step size min", "mean", "max"]]
    for path, value in learned.lengths(meta_params).items():
        statistics = [f"{of(value):.2f}" for of in _STATISTICS.values()]
        shares = [f"{np.mean(value == 0):.0%}", f"{np.mean(value >= most):.0%}"]
        alpha = sizes[path]
        shown = [f"{number:.4g}" for number in (alpha.min(), alpha.mean(), alpha.max())]
        rows.append([path, "x".join(map(str, value.shape)) or "-", *statistics, *shares, *shown])
    return rows


def main(_: list[str]) -> None:
    """Prints the table, the inner compute and what else is learned."""
    experiment, state = load_run(pathlib.Path(_WORKDIR.value))
    learned, meta_params, caps = experiment.learned, state.meta_params, cli.whole_numbers(_CAPS)
    for cap in caps:
        learned.cut(meta_params, cap)  # a bad one is refused before any output
    rows = table(learned, meta_params)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    compute = learned.compute(learned.lengths(meta_params))
    note = "" if learned.gates else "; no lengths are learned: K is that of the test"
    print(f"\n{experiment.spec.algorithm} at meta-step {int(state.step)}{note}")
    share = compute / learned.costs.full(learned.most)
    print(f"inner compute C: {compute / 1e6:.4g} MFLOP a task, {share:.0%} of {learned.most} steps")
    for name, of in learned.values(meta_params).items():
        if not name.startswith("step_size/"):  # these are in the table
            print(f"{name}: {of['min']:.4g} to {of['max']:.4g}, mean {of['mean']:.4g}")
    if own := learned.optimizer_flops:
        print(f"of a full step, products of the inner optimizer: {own / 1e6:.4g} MFLOP")
    if caps:
        print_cut(experiment, meta_params, caps)


if __name__ == "__main__":
    cli.run(main)
