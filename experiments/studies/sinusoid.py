"""The sinusoid results of the MAML paper: 70,000 meta-steps, 5, 10 and 20 support points at test.

python -m experiments.studies.sinusoid --workdir=runs/sinusoid_study

Trains MAML with the pretrained baseline and the oracle, first-order MAML, and MAML at another step
size. An interrupted study resumes with the same command. The result is kept in
experiments/results/sinusoid_paper.json.
"""

import pathlib
import time

from absl import flags

from configs.sinusoid import get_config
from experiments import cli
from experiments.publish import results
from experiments.publish.results import Record
from experiments.studies.study import Overrides
from maml_jax.run import provenance
from maml_jax.run.loop import evaluate_run, train_and_evaluate
from maml_jax.run.workdir import read_evaluation

_WORKDIR = cli.define_workdir()
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "seeds to train")
_SHOTS = (5, 10, 20)
ARMS: dict[str, Overrides] = {
    "maml": {},
    "fomaml": {"algorithm": "fomaml", "baselines": ()},
    # The authors' command line leaves α at 1e-3.
    "maml_rate_0.001": {"inner.step_size": 0.001, "baselines": ()},
}


def _evaluate(run: str, workdir: pathlib.Path, shots: int) -> Record:
    """A run's test with so many support points, and the seconds of its training."""
    record = evaluate_run(workdir, {"shots": shots})
    tested = {key: value for key, value in record.items() if key not in provenance.KEYS}
    return tested | {"run": run, "seconds": read_evaluation(workdir)["train_seconds"]}


def train(arm: str, seed: int, root: pathlib.Path) -> list[Record]:
    """Trains an arm and its baselines with one seed, and evaluates each with all shots."""
    config = get_config("paper")
    config.update_from_flattened_dict({"seed": seed, **ARMS[arm]})
    workdir = root / f"{arm}_{seed}"
    train_and_evaluate(config, workdir)
    return [
        _evaluate(name or arm, workdir / name, shots)
        for name in ("", *config.baselines)
        for shots in _SHOTS
    ]


def main(_: list[str]) -> None:
    """Trains, evaluates and keeps the results."""
    started = time.time()
    evaluations = [
        evaluation
        for seed in map(int, _SEEDS.value)
        for arm in ARMS
        for evaluation in train(arm, seed, pathlib.Path(_WORKDIR.value))
    ]
    record = {
        **provenance.describe(),
        "wall_seconds": round(time.time() - started),
        "config": get_config("paper").to_dict(),
        "evaluations": evaluations,
    }
    print(results.write("sinusoid_paper", record))


if __name__ == "__main__":
    cli.run(main)
