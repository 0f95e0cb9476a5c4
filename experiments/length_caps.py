"""What long lengths are worth: trained runs of a study with every length above a cap cut to it.

python -m experiments.length_caps --workdir=runs/acceleration_sinusoid --arms=gd,meta_curvature

Median loss over validation tasks, nothing trained again. Keeps its result in
experiments/results/length_caps.json.
"""

import pathlib

from absl import flags
from tqdm import tqdm

from experiments import cli, results_io, study_cli
from experiments.study_cli import ARMS, WORKDIR
from maml_jax import provenance
from maml_jax.errors import UsageError
from maml_jax.training import load_run

_CAPS = flags.DEFINE_list("caps", ["15", "10", "5"], "lengths to cut longer ones to")


def medians(workdir: pathlib.Path, arm: str, caps: list[int]) -> dict[int, list[float]]:
    """Largest length -> median loss of every seed's run.

    Raises:
      UsageError: the folder has no run of the arm, or the arm learns no lengths.
    """
    losses: dict[int, list[float]] = {}
    for run in tqdm(study_cli.trained(workdir, arm), desc=arm):
        experiment, state = load_run(run)
        most = experiment.schedule.most
        for cap in (most, *(cap for cap in caps if cap < most)):
            cut = experiment.schedule.cut(state.meta_params, cap)
            loss = experiment.evaluate(cut, "validation").estimates["loss"]
            losses.setdefault(cap, []).append(float(loss.median[-1]))
    return losses


def main(_: list[str]) -> None:
    """Evaluates and keeps."""
    workdir, caps = pathlib.Path(WORKDIR.value), cli.whole_numbers(_CAPS)
    if not ARMS.value:
        raise UsageError("no arms are named; use --arms=gd,meta_curvature")
    arms = {arm: medians(workdir, arm, caps) for arm in ARMS.value}
    print(results_io.write("length_caps", {**provenance.describe(), "arms": arms}))


if __name__ == "__main__":
    cli.run(main)
