"""Counts the inner compute C of kept studies anew, from the lengths that their runs recorded.

python -m experiments.publish.recount acceleration_sinusoid_20 equal_compute_sinusoid

A result has C as it was counted when it was measured. This is for changes of the count, as when it
came to include the products of the inner optimizer. Nothing else in the result changes.
"""

import json

import numpy as np

from experiments import cli
from experiments.publish import results
from experiments.publish.results import Record
from maml_jax.run.build import build
from maml_jax.run.config import default_config, flatten, without_unused
from maml_jax.run.learned import LearnedSummary, Lengths


def learned_of(study: Record, arm: Record) -> LearnedSummary:
    """What counts the C of an arm, whose names are those of today."""
    config = default_config()
    known = {key for key, _ in flatten(config)}
    values = {**dict(flatten(study["config"])), **arm["overrides"], **arm["choice"]}
    config.update_from_flattened_dict({key: of for key, of in values.items() if key in known})
    return build(without_unused(config), training=False).learned


def longest(learned: LearnedSummary, run: Record) -> Lengths:
    """Path -> the largest length of the tensor in a run."""
    if "length_counts" not in run:
        return {path: np.array(run["num_steps"]) for path in learned.costs.own}
    return {path: np.flatnonzero(of)[-1:] for path, of in run["length_counts"].items()}


def recount(name: str) -> Record:
    """The result, with today's C. Its names stay as they are."""
    kept: Record = json.loads((results.RESULTS / f"{name}.json").read_text("utf-8"))
    today, compute = results.read(name), {}
    for arm, of in today["arms"].items():
        learned = learned_of(today, of)
        for run in kept["arms"][arm]["runs"]:
            lengths = longest(learned, run)
            run["inner_compute"] = [
                learned.compute(lengths, steps) for steps in range(run["num_steps"] + 1)
            ]
            if "lengths" in run:
                total = learned.compute(lengths)
                share = total / learned.costs.full(learned.most)
                run["lengths"] |= {"inner_compute": total, "inner_compute_share": share}
        compute[arm] = [run["inner_compute"][-1] for run in kept["arms"][arm]["runs"]]
    for row in kept["rows"]:
        row["compute"] = float(np.mean(compute[row["arm"]]))
    return kept


def main(arguments: list[str]) -> None:
    """Writes the results and prints their paths."""
    for name in arguments[1:]:
        print(results.write(name, recount(name)))


if __name__ == "__main__":
    cli.run(main, takes_arguments=True)
