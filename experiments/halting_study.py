"""Adaptive K against MAML, Meta-SGD, sparse-MAML and others, at equal inner compute.

python -m experiments.halting_study --task=sinusoid --workdir=runs/halting_sinusoid

Adaptive K may take up to K_max steps, but a dual variable holds its inner compute at that of the
other arms' K steps. Every arm is tuned over the same inner learning rates on validation tasks of a
seed of its own, then trained with every seed. Resumes where it was stopped; keeps its result in
experiments/results/halting_TASK.json.
"""

import pathlib
from typing import Any

from absl import flags

from experiments import cli

_WORKDIR = cli.define_workdir()
_TASK = flags.DEFINE_enum("task", "sinusoid", ["sinusoid", "omniglot"], "family of tasks")
_SEEDS = flags.DEFINE_integer("seeds", None, "number of seeds; 5 for sinusoid, 3 for omniglot")
_STEPS = flags.DEFINE_integer("steps", None, "meta-steps of a run")

RATES = {
    "sinusoid": (0.0025, 0.005, 0.01, 0.02, 0.04),
    "omniglot": (0.5, 1.0, 2.0),
}


def sinusoid_arms(k_max: int, k: int) -> dict[str, dict[str, Any]]:
    """Arms at the compute of k steps, and MAML at k_max."""
    few, many = ({"inner.num_steps": n, "eval.num_steps": n} for n in (k, k_max))
    budget = {"halting.cost": "compute", "halting.budget": k / k_max}
    return {
        "maml": few,
        "maml_k_max": many,
        "meta_sgd": {"algorithm": "meta_sgd", **few},
        "sparse_maml": {"algorithm": "sparse_maml", **few},
        "adaptive_k": {"algorithm": "adaptive_k", **many, **budget},
        "adaptive_k_free": {"algorithm": "adaptive_k", **many},
    }


def omniglot_arms(k_max: int, k: int) -> dict[str, dict[str, Any]]:
    """The same on 20-way images, with ANIL and MAML++ beside."""
    few = {"inner.num_steps": k, "eval.num_steps": k}
    return sinusoid_arms(k_max, k) | {
        "anil": {"algorithm": "anil", **few},
        "maml_plus_plus": {
            "algorithm": "maml_plus_plus",
            "model.normalization": "per_step",
            **few,
        },
    }


def main(_: list[str]) -> None:
    """Tunes, trains, compares and keeps."""
    import jax

    from configs import omniglot, sinusoid
    from experiments import studies

    root = pathlib.Path(_WORKDIR.value)
    # Runs that differ in seed or learning rate alone are one program.
    jax.config.update("jax_compilation_cache_dir", str((root / "programs").resolve()))
    if _TASK.value == "sinusoid":
        base, arms, seeds, tuning = sinusoid.get_config(), sinusoid_arms(20, 5), 5, 3_000
        changes: dict[str, Any] = {
            "references": (),
            "num_meta_steps": _STEPS.value or 10_000,
            "eval.shots": 10,
            "eval.num_episodes": 1_000,
            "steps_per_dispatch": 500,
        }
        measure = "loss"
    else:
        base, arms, seeds, tuning = (
            omniglot.get_config("20way_1shot_cpu"),
            omniglot_arms(10, 5),
            3,
            400,
        )
        changes = {
            "num_meta_steps": _STEPS.value or 4_000,
            "meta_batch_size": 4,
            "model.filters": 32,
            "eval.num_episodes": 600,
            "eval.validation_every": 0,
        }
        measure = "accuracy"
    base.update_from_flattened_dict(changes)
    trials = [{"inner.learning_rate": rate} for rate in RATES[_TASK.value]]
    study = studies.Study(base, arms, trials, tuning, range(_SEEDS.value or seeds))
    studies.keep(f"halting_{_TASK.value}", studies.run(study, root), measure, "maml")


if __name__ == "__main__":
    cli.run(main)
