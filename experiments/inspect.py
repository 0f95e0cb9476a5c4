"""Shows a run's learned lengths, step sizes and inner optimizer, tensor by tensor.

python -m experiments.inspect --workdir=runs/adaptive_k

With --caps=10,15 also what long lengths are worth: the loss on validation tasks with every length
above a cap cut to it, nothing trained again.
"""

import pathlib
from collections.abc import Callable

import numpy as np
from absl import flags

from experiments import cli, studies
from maml_jax.experiment import Experiment
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
    for cap in (experiment.schedule.most, *caps):
        cut = experiment.schedule.cut(meta_params, cap)
        loss = experiment.evaluate(cut, "validation").estimates["loss"]
        print(f"{cap:<4d} {loss.mean[-1]:<10.4g} {loss.median[-1]:.4g}")


def main(_: list[str]) -> None:
    """Prints one row a tensor."""
    from maml_jax.training import load_run

    experiment, state = load_run(pathlib.Path(_WORKDIR.value))
    caps = cli.whole_numbers(_CAPS)
    for cap in caps:
        experiment.schedule.cut(state.meta_params, cap)  # a bad one is refused before any output
    schedule = experiment.schedule
    lengths, rates = schedule.lengths(state.meta_params), schedule.rates(state.meta_params)
    most = schedule.most
    head = ["tensor", "shape", *(f"K {name}" for name in _STATISTICS), "at 0", f"at {most}"]
    rows = [[*head, "rate min", "rate mean", "rate max"]]
    for path, value in lengths.items():
        statistics = [f"{of(value):.2f}" for of in _STATISTICS.values()]
        shares = [f"{np.mean(value == 0):.0%}", f"{np.mean(value >= most):.0%}"]
        alpha = rates[path]
        sizes = [f"{number:.4g}" for number in (alpha.min(), alpha.mean(), alpha.max())]
        rows.append([path, "x".join(map(str, value.shape)) or "-", *statistics, *shares, *sizes])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    compute, full = schedule.compute(lengths), most * schedule.costs.full_step
    learned = "" if schedule.halting else "; no lengths are learned: K is that of the test"
    print(f"\n{experiment.config.algorithm} at meta-step {int(state.step)}{learned}")
    print(
        f"inner compute C: {compute / 1e6:.4g} MFLOP a task, {compute / full:.0%} of {most} steps"
    )
    for name, of in schedule.learned(state.meta_params).items():
        if not name.startswith("rate/"):  # these are in the table
            print(f"{name}: {of['min']:.4g} to {of['max']:.4g}, mean {of['mean']:.4g}")
    if own := studies.optimizer_flops(experiment.config):
        print(f"not in C: {own / 1e6:.4g} MFLOP a full step for products of the inner optimizer")
    if caps:
        print_cut(experiment, state.meta_params, caps)


if __name__ == "__main__":
    cli.run(main)
