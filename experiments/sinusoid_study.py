"""The sinusoid rows of the MAML paper: 70,000 meta-steps, 5, 10 and 20 support points at test.

python -m experiments.sinusoid_study --workdir=runs/sinusoid_study

Trains MAML, first-order MAML and, beside each, the pretrained baseline and the oracle; resumes
where it was stopped; keeps its results in experiments/results/sinusoid_paper.json.
"""

import json
import pathlib
import time
from typing import Any

from absl import flags

from configs.sinusoid import get_config
from experiments import cli, results_io

_WORKDIR = cli.define_workdir()
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "seeds to train")
_SHOTS = (5, 10, 20)
ARMS: dict[str, dict[str, Any]] = {
    "maml": {},
    "fomaml": {"algorithm": "fomaml", "references": ()},
    # The authors' command line leaves α at 1e-3.
    "maml_rate_0.001": {"inner.learning_rate": 0.001, "references": ()},
}


def main(_: list[str]) -> None:
    """Trains, evaluates and keeps the results."""
    from maml_jax import provenance
    from maml_jax.training import evaluate_run, train_and_evaluate

    started = time.time()
    root = pathlib.Path(_WORKDIR.value)
    evaluations = []
    for seed in map(int, _SEEDS.value):
        for arm, changes in ARMS.items():
            config = get_config("paper")
            config.update_from_flattened_dict({"seed": seed, **changes})
            workdir = root / f"{arm}_{seed}"
            train_and_evaluate(config, workdir)
            for name in ("", *config.references):
                for shots in _SHOTS:
                    record = evaluate_run(workdir / name, {"shots": shots})
                    train_seconds = json.loads((workdir / name / "evaluation.json").read_text())
                    evaluations.append(
                        {key: value for key, value in record.items() if key not in provenance.KEYS}
                        | {"run": name or arm, "seconds": train_seconds["train_seconds"]}
                    )
    config = get_config("paper").to_dict()
    print(
        results_io.write(
            "sinusoid_paper",
            {
                **provenance.describe(),
                "wall_seconds": round(time.time() - started),
                "config": config,
                "evaluations": evaluations,
            },
        )
    )


if __name__ == "__main__":
    cli.run(main)
