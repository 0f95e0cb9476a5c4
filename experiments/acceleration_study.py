"""How far accelerated inner loops cut the learned K: adaptive K with each method.

python -m experiments.acceleration_study --task=sinusoid --workdir=runs/acceleration_sinusoid

Same cost of K, same initial length and K_max in all arms; every arm gets the same number of trials
on separate validation tasks. Gradient descent is also given learned rates per tensor: only a gain
over the best of the two counts as acceleration. --k_max=40 repeats it at twice the length. Resumes
where it was stopped; keeps its result in experiments/results/acceleration_TASK_KMAX.json. With
--arms it trains these alone, so that several processes can share a workdir, and keeps no result
unless --keep.
"""

import pathlib
from typing import Any

from absl import flags

from experiments import cli, studies

_WORKDIR = cli.define_workdir()
_TASK = flags.DEFINE_enum("task", "sinusoid", ["sinusoid", "omniglot"], "family of tasks")
_ARMS = flags.DEFINE_list("arms", None, "names of arms; all by default")
_KEEP = flags.DEFINE_bool("keep", None, "keep the result; by default where all arms were trained")
_SEEDS = flags.DEFINE_integer("seeds", None, "number of seeds; 5 for sinusoid, 3 for omniglot")
_STEPS = flags.DEFINE_integer("steps", None, "meta-steps of a run")
_K_MAX = flags.DEFINE_integer("k_max", None, "largest length; 20 for sinusoid, 10 for omniglot")
_COST = flags.DEFINE_float("cost", 0.02, "weight of mean length / K_max")

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
    root, family = pathlib.Path(_WORKDIR.value), studies.family(_TASK.value, _STEPS.value)
    k_max = _K_MAX.value or family.k_max
    family.base.update_from_flattened_dict(
        {
            "algorithm": "adaptive_k",
            "inner.num_steps": k_max,
            "eval.num_steps": k_max,
            "halting.initial_length": 5.0,
            "halting.cost_weight": _COST.value,
        }
    )
    arms = studies.select({name: studies.Arm(of) for name, of in ARMS.items()}, _ARMS.value)
    record = studies.run(studies.Study(family, arms, _SEEDS.value or family.seeds), root)
    if _KEEP.value or (_KEEP.value is None and not _ARMS.value):
        studies.keep(f"acceleration_{_TASK.value}_{k_max}", record, family.measure, "gd")


if __name__ == "__main__":
    cli.run(main)
