"""Which step sizes and momenta long lengths come with: a study's trained runs, class by class.

python -m experiments.length_rates --workdir=runs/acceleration_sinusoid --arms=gd_rates_parameter

Of arms with a step size for every step, these and how many parameters take that step instead. Keeps
its result in experiments/results/length_rates.json.
"""

import pathlib
from typing import Any

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import cli, results_io, study_cli
from experiments.study_cli import ARMS, WORKDIR
from maml_jax import provenance
from maml_jax.config import automatic
from maml_jax.errors import UsageError
from maml_jax.inner.optimizers import learned_values
from maml_jax.training import load_run, read_config

_FROM = flags.DEFINE_list("from", ["1", "6", "10"], "shortest length of every class")


def classes(
    workdir: pathlib.Path, arm: str, shortest: list[int]
) -> dict[str, list[dict[str, Any]]]:
    """What the parameters of every class of lengths have in common, over all seeds' runs.

    Returns:
      Path of a tensor -> one row a class: `lengths`, its shortest and longest; `count` of the
      parameters; means over them of `length`, of `rate`, the first step's absolute size, and of
      `momentum`, where there is one.

    Raises:
      UsageError: the folder has no run of the arm.
    """
    found: dict[str, list[np.ndarray]] = {}  # path -> [length, |rate|, momentum] of all parameters
    for run in tqdm(study_cli.trained(workdir, arm), desc=arm):
        experiment, state = load_run(run)
        schedule, meta_params = experiment.schedule, state.meta_params
        optimizer = jax.device_get(learned_values(meta_params.optimizer))
        rates = schedule.rates(meta_params)
        for path, lengths in schedule.lengths(meta_params).items():
            momentum = optimizer.get(f"momentum/{path}", np.nan)
            values = (lengths, np.abs(rates[path][0]), momentum)
            found.setdefault(path, []).append(
                np.stack([np.broadcast_to(value, lengths.shape).ravel() for value in values])
            )
    return {path: _by_length(np.concatenate(of, axis=1), shortest) for path, of in found.items()}


def steps(workdir: pathlib.Path, arm: str) -> dict[str, dict[str, list[float]]]:
    """What happens at every step that a parameter of any seed's run takes.

    Returns:
      Path of a tensor -> `count`, how many parameters take the step, over all seeds; `rate`, the
      step's size, mean over these.

    Raises:
      UsageError: the folder has no run of the arm.
    """
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for run in tqdm(study_cli.trained(workdir, arm), desc=arm):
        experiment, state = load_run(run)
        rates = experiment.schedule.rates(state.meta_params)
        for path, lengths in experiment.schedule.lengths(state.meta_params).items():
            takes = np.arange(len(rates[path]))[:, None] < lengths.ravel()
            of_step = rates[path].reshape(len(takes), -1)
            found.setdefault(path, []).append((takes.sum(1), (takes * of_step).sum(1)))
    told = {}
    for path, runs in found.items():
        counts, sums = np.sum(runs, axis=0)
        taken = counts > 0
        means = sums[taken] / counts[taken]
        told[path] = {"count": counts[taken].astype(int).tolist(), "rate": means.tolist()}
    return told


def _by_length(values: np.ndarray, shortest: list[int]) -> list[dict[str, Any]]:
    rows = []
    for low, after in zip(shortest, [*shortest[1:], None], strict=True):
        inside = values[:, (values[0] >= low) & (values[0] < (after or np.inf))]
        row: dict[str, Any] = {"lengths": [low, after and after - 1], "count": inside.shape[1]}
        if inside.size:
            means = zip(("length", "rate", "momentum"), inside.mean(1).tolist(), strict=True)
            row |= {name: mean for name, mean in means if not np.isnan(mean)}
        rows.append(row)
    return rows


def _has_rates_per_step(workdir: pathlib.Path, arm: str) -> bool:
    config = read_config(study_cli.trained(workdir, arm)[0])
    return bool(automatic(config)["inner.rates"] == "tensor_step")


def main(_: list[str]) -> None:
    """Reads the runs and keeps."""
    if not ARMS.value:
        raise UsageError("no arms are named; use --arms=gd_rates_parameter")
    workdir, shortest = pathlib.Path(WORKDIR.value), cli.whole_numbers(_FROM)
    per_step = [arm for arm in ARMS.value if _has_rates_per_step(workdir, arm)]
    record = {
        **provenance.describe(),
        "arms": {arm: classes(workdir, arm, shortest) for arm in ARMS.value if arm not in per_step},
        "steps": {arm: steps(workdir, arm) for arm in per_step},
    }
    print(results_io.write("length_rates", record))


if __name__ == "__main__":
    cli.run(main)
