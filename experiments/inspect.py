"""Shows a run's learned lengths and step sizes, tensor by tensor.

python -m experiments.inspect --workdir=runs/adaptive_k
"""

import pathlib
from collections.abc import Callable

import numpy as np

from experiments import cli

_WORKDIR = cli.define_workdir()
_STATISTICS: dict[str, Callable[[np.ndarray], float]] = {
    "min": np.min,
    "mean": np.mean,
    "p90": lambda value: np.percentile(value, 90),
    "p99": lambda value: np.percentile(value, 99),
    "max": np.max,
}


def main(_: list[str]) -> None:
    """Prints one row a tensor."""
    from maml_jax.training import load_run

    experiment, state = load_run(pathlib.Path(_WORKDIR.value))
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
    print(f"\n{experiment.config.algorithm} at meta-step {int(state.step)}")
    print(
        f"inner compute C: {compute / 1e6:.4g} MFLOP a task, {compute / full:.0%} of {most} steps"
    )


if __name__ == "__main__":
    cli.run(main)
