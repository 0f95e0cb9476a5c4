"""The step sizes and momenta of long lengths: trained runs of a study, by class of lengths.

python -m experiments.studies.length_step_sizes --workdir=runs/acc --arms=gd_rates_parameter

For arms with a step size for every step, it shows these step sizes and how many parameters take
each step instead. The result is kept in experiments/results/length_step_sizes.json.
"""

import pathlib

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import cli
from experiments.publish import results
from experiments.publish.results import Record
from experiments.studies import cli as study_cli
from experiments.studies.cli import ARMS, WORKDIR
from maml_jax.errors import UsageError
from maml_jax.inner.optimizers.registry import learned_values
from maml_jax.run import provenance
from maml_jax.run.config import resolve
from maml_jax.run.workdir import load_run, read_config

_FROM = flags.DEFINE_list("from", ["1", "6", "10"], "shortest length of every class")


def classes(workdir: pathlib.Path, arm: str, shortest: list[int]) -> dict[str, list[Record]]:
    """What the parameters of every class of lengths have in common, over all seeds' runs.

    Returns:
      Path of a tensor -> one row per class: `lengths`, its shortest and longest; `count` of the
      parameters; means over them of `length`, of `step_size`, the first step's absolute size, and
      of `momentum`, if there is one.

    Raises:
      UsageError: the folder has no run of the arm.
    """
    found: dict[str, list[np.ndarray]] = {}  # path -> [length, |α|, momentum] of all parameters
    for run in tqdm(study_cli.trained(workdir, arm), desc=arm):
        experiment, state = load_run(run)
        learned, meta_params = experiment.learned, state.meta_params
        optimizer = jax.device_get(learned_values(meta_params.optimizer))
        step_sizes = learned.step_sizes(meta_params)
        for path, lengths in learned.lengths(meta_params).items():
            momentum = optimizer.get(f"momentum/{path}", np.nan)
            values = (lengths, np.abs(step_sizes[path][0]), momentum)
            found.setdefault(path, []).append(
                np.stack([np.broadcast_to(value, lengths.shape).ravel() for value in values])
            )
    return {path: _by_length(np.concatenate(of, axis=1), shortest) for path, of in found.items()}


def steps(workdir: pathlib.Path, arm: str) -> dict[str, dict[str, list[float]]]:
    """What happens at every step that some parameter of some seed's run takes.

    Returns:
      Path of a tensor -> `count`, how many parameters take the step, over all seeds; `step_size`,
      their mean step size.

    Raises:
      UsageError: the folder has no run of the arm.
    """
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for run in tqdm(study_cli.trained(workdir, arm), desc=arm):
        experiment, state = load_run(run)
        step_sizes = experiment.learned.step_sizes(state.meta_params)
        for path, lengths in experiment.learned.lengths(state.meta_params).items():
            takes = np.arange(len(step_sizes[path]))[:, None] < lengths.ravel()
            of_step = step_sizes[path].reshape(len(takes), -1)
            found.setdefault(path, []).append((takes.sum(1), (takes * of_step).sum(1)))
    result = {}
    for path, runs in found.items():
        counts, sums = np.sum(runs, axis=0)
        taken = counts > 0
        means = sums[taken] / counts[taken]
        result[path] = {"count": counts[taken].astype(int).tolist(), "step_size": means.tolist()}
    return result


def _by_length(values: np.ndarray, shortest: list[int]) -> list[Record]:
    rows = []
    for low, after in zip(shortest, [*shortest[1:], None], strict=True):
        inside = values[:, (values[0] >= low) & (values[0] < (after or np.inf))]
        row: Record = {"lengths": [low, after and after - 1], "count": inside.shape[1]}
        if inside.size:
            means = zip(("length", "step_size", "momentum"), inside.mean(1).tolist(), strict=True)
            row |= {name: mean for name, mean in means if not np.isnan(mean)}
        rows.append(row)
    return rows


def _has_step_sizes_per_step(workdir: pathlib.Path, arm: str) -> bool:
    config = read_config(study_cli.trained(workdir, arm)[0])
    return resolve(config).inner.step_sizes == "tensor_step"


def main(_: list[str]) -> None:
    """Reads the runs and keeps."""
    if not ARMS.value:
        raise UsageError("no arms are named; use --arms=gd_rates_parameter")
    workdir, shortest = pathlib.Path(WORKDIR.value), cli.whole_numbers(_FROM)
    per_step = [arm for arm in ARMS.value if _has_step_sizes_per_step(workdir, arm)]
    record = {
        **provenance.describe(),
        "arms": {arm: classes(workdir, arm, shortest) for arm in ARMS.value if arm not in per_step},
        "steps": {arm: steps(workdir, arm) for arm in per_step},
    }
    print(results.write("length_step_sizes", record))


if __name__ == "__main__":
    cli.run(main)
