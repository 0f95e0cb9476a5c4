"""How far accelerated inner loops cut the learned K: adaptive K with each method.

python -m experiments.acceleration_study --task=sinusoid --workdir=runs/acceleration_sinusoid

Same cost of K, same initial length and K_max in all arms; every arm gets the same number of trials
on separate validation tasks. Gradient descent is also given learned rates per tensor: only a gain
over the best of the two counts as acceleration. --k_max=40 repeats it at twice the length. Resumes
where it was stopped; keeps its result in experiments/results/acceleration_TASK_KMAX.json.
"""

import pathlib
from typing import Any

from absl import flags

from experiments import cli

_WORKDIR = cli.define_workdir()
_TASK = flags.DEFINE_enum("task", "sinusoid", ["sinusoid", "omniglot"], "family of tasks")
_ARMS = flags.DEFINE_list("arms", None, "names of arms; all by default")
_SEEDS = flags.DEFINE_integer("seeds", None, "number of seeds; 5 for sinusoid, 3 for omniglot")
_STEPS = flags.DEFINE_integer("steps", None, "meta-steps of a run")
_K_MAX = flags.DEFINE_integer("k_max", None, "largest length; 20 for sinusoid, 10 for omniglot")
_COST = flags.DEFINE_float("cost", 0.02, "weight of mean length / K_max")

RATES = {
    "sinusoid": (0.0025, 0.005, 0.01, 0.02, 0.04),
    "omniglot": (0.25, 0.5, 1.0, 2.0, 4.0),
}
ARMS: dict[str, dict[str, Any]] = {
    "gd": {},
    "gd_rates": {"inner.rates": "tensor"},
    "heavy_ball": {"inner.optimizer": "heavy_ball", "inner.momentum": 0.8},
    "nesterov": {"inner.optimizer": "nesterov", "inner.momentum": 0.8},
    "nesterov_sequence": {"inner.optimizer": "nesterov_sequence"},
    "nesterov_restart": {"inner.optimizer": "nesterov_restart"},
    "ogm": {"inner.optimizer": "ogm"},
    "chebyshev": {"inner.optimizer": "chebyshev"},
    "barzilai_borwein": {"inner.optimizer": "barzilai_borwein"},
    "conjugate_gradient": {"inner.optimizer": "conjugate_gradient"},
    "anderson": {"inner.optimizer": "anderson"},
    "learned_momentum": {
        "inner.optimizer": "heavy_ball",
        "inner.momentum": 0.8,
        "inner.learn_optimizer": "tensor",
        "inner.rates": "tensor",
    },
    "adam": {"inner.optimizer": "adam"},
}


def main(_: list[str]) -> None:
    """Tunes, trains, compares and keeps."""
    import jax

    from configs import omniglot, sinusoid
    from experiments import studies

    root, sines = pathlib.Path(_WORKDIR.value), _TASK.value == "sinusoid"
    # Runs that differ in seed or learning rate alone are one program.
    jax.config.update("jax_compilation_cache_dir", str((root / "programs").resolve()))
    k_max = _K_MAX.value or (20 if sines else 10)
    changes: dict[str, Any] = {
        "algorithm": "adaptive_k",
        "inner.num_steps": k_max,
        "eval.num_steps": k_max,
        "halting.initial_length": 5.0,
        "halting.cost_weight": _COST.value,
    }
    if sines:
        base, seeds, tuning, measure = sinusoid.get_config(), 5, 3_000, "loss"
        changes |= {
            "references": (),
            "num_meta_steps": _STEPS.value or 10_000,
            "eval.shots": 10,
            "eval.num_episodes": 1_000,
        }
    else:
        base, seeds, tuning, measure = (omniglot.get_config("20way_1shot_cpu"), 3, 400, "accuracy")
        changes |= {
            "num_meta_steps": _STEPS.value or 4_000,
            "meta_batch_size": 4,
            "model.filters": 32,
            "eval.num_episodes": 600,
            "eval.validation_every": 0,
        }
    base.update_from_flattened_dict(changes)
    arms = {name: ARMS[name] for name in _ARMS.value or ARMS}
    trials = [{"inner.learning_rate": rate} for rate in RATES[_TASK.value]]
    study = studies.Study(base, arms, trials, tuning, range(_SEEDS.value or seeds))
    name = f"acceleration_{_TASK.value}_{k_max}"
    studies.keep(name, studies.run(study, root), measure, "gd")


if __name__ == "__main__":
    cli.run(main)
