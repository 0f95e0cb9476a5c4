"""How far accelerated inner loops cut the learned K: adaptive K with each method.

python -m experiments.acceleration_study --task=sinusoid --workdir=runs/acceleration_sinusoid

Same cost of a step, same initial length and K_max in all arms; every arm gets the same number of
trials on separate validation tasks. Gradient descent is also given learned rates, per tensor, per
parameter, and per tensor and step: only a gain over the best of the four counts as acceleration.

--k_max=40 repeats it at twice the length, --cost=4 at a higher price of a step and --first_seed=601
on other seeds, each in a workdir of its own and with the rates that the kept study chose: nothing
else differs. Resumes where it was stopped; keeps its result in
experiments/results/acceleration_TASK_KMAX.json, with _cost_COST or _seeds_FIRST behind it. With
--arms it trains these alone, so that several processes can share a workdir, and keeps no result
unless --keep; --extend adds them to the kept result, without the workdirs of the arms it has.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags

from experiments import cli, results_io, studies, study_cli
from experiments.studies import Arm
from experiments.task_flag import TASK
from maml_jax.errors import UsageError
from maml_jax.inner.optimizers import INNER_OPTIMIZERS

flags.adopt_module_key_flags(study_cli)
_K_MAX = flags.DEFINE_integer(
    "k_max", None, "largest length; 20 for sinusoid, 10 for omniglot", lower_bound=1
)
_COST = flags.DEFINE_integer(
    "cost", 1, "price of a step, relative to that of the study", lower_bound=1
)
_FIRST_SEED = flags.DEFINE_integer(
    "first_seed", None, "seed to begin with; that of the study", lower_bound=1
)

RATES_OF_RATES = {  # of learned rates that are no logs; BUILD_NOTES.md has what else was tried
    "sinusoid": {"parameter": 1e-4, "tensor_step": 1e-2},
    "omniglot": {"parameter": 2e-3, "tensor_step": 2e-2},
}
MOST_SEEDS = 5  # there are four times as many arms as in the study of halting
# Arms of the halting study chose the lower of 1 and 2; momentum 0.8 makes a rate 5 times as large.
OMNIGLOT_RATES = (0.25, 0.5, 1.0)
OMNIGLOT_TUNING_STEPS = 4_000  # all: a shorter tuning favours small rates
# Of the mean length, so that its whole price is some tenth of the loss. BUILD_NOTES.md has on which
# runs of gradient descent these, the first lengths and the norms were chosen.
COSTS_OF_A_STEP = {"sinusoid": 0.001, "omniglot": 0.02}
INITIAL_LENGTHS = {"sinusoid": 5.0, "omniglot": 1.0}
TASK_CLIP_NORMS = {"sinusoid": 1.0, "omniglot": 10.0}


def shared_settings(task: str, k_max: int, cost: int = 1) -> dict[str, Any]:
    """What all arms have in common; the cost is relative to COSTS_OF_A_STEP."""
    return {
        "algorithm": "adaptive_k",
        "inner.num_steps": k_max,
        "eval.num_steps": k_max,
        "halting.gate": "straight_through",
        "halting.initial_length": INITIAL_LENGTHS[task],
        "halting.cost_weight": cost * COSTS_OF_A_STEP[task] * k_max,
        "inner.momentum": 0.8,
        "outer.clip_norm": 0.0,
        "outer.task_clip_norm": TASK_CLIP_NORMS[task],
    }


def make_arms(task: str) -> dict[str, Arm]:
    """Gradient descent, with learned rates too, and every inner optimizer."""
    rates: dict[str, dict[str, Any]] = {"tensor": {"inner.rates": "tensor"}}
    for kind, rate in RATES_OF_RATES[task].items():
        rates[kind] = {"inner.rates": kind, "outer.rates_learning_rate": rate}
    overrides: dict[str, dict[str, Any]] = {
        "gd": {},
        **{f"gd_rates_{kind}": of for kind, of in rates.items()},
        **{name: {"inner.optimizer": name} for name in INNER_OPTIMIZERS if name != "sgd"},
        **{
            f"learned_momentum_{granularity}": {
                "inner.optimizer": "heavy_ball",
                "inner.learn_optimizer": granularity,
                **rates[granularity],
            }
            for granularity in ("tensor", "parameter")
        },
        "meta_curvature_rates": {"inner.optimizer": "meta_curvature", **rates["parameter"]},
        "meta_curvature_rates_tensor_step": {
            "inner.optimizer": "meta_curvature",
            **rates["tensor_step"],
        },
    }
    for name in (name for name in overrides if name.startswith("meta_curvature")):
        overrides[name] |= {
            "inner.learn_optimizer": "tensor" if name.endswith("momentum") else "global",
            "outer.optimizer_learning_rate": 1e-3,  # a step changes every entry of a matrix
        }
    return {name: Arm(of) for name, of in overrides.items()}


def as_chosen(arms: Mapping[str, Arm], record: Mapping[str, Any]) -> dict[str, Arm]:
    """The arms that a kept study has with these settings, at the values chosen there alone."""
    kept = {
        name: record["arms"][name]["choice"]
        for name, arm in arms.items()
        if name in record["arms"] and record["arms"][name]["overrides"] == arm.overrides
    }
    return {name: arms[name]._replace(knob=(choice,)) for name, choice in kept.items() if choice}


def best_gradient_descent(record: dict[str, Any], measure: str) -> str:
    """The arm of gradient descent that accelerated ones are compared to: the best on the tests.

    Raises:
      UsageError: no such arm was trained.
    """
    scores = {
        name: float(np.mean(studies.last(arm["runs"], measure)))
        for name, arm in record["arms"].items()
        if arm["runs"] and "inner.optimizer" not in arm["overrides"]
    }
    if not scores:
        raise UsageError(f"--arms={','.join(record['arms'])} has no gd; add it")
    return (max if measure == "accuracy" else min)(scores, key=scores.__getitem__)


def main(_: list[str]) -> None:
    """Tunes, trains, compares and keeps."""
    task, family = TASK.value, study_cli.family()
    family = family._replace(seeds=min(family.seeds, MOST_SEEDS))
    if task == "omniglot":
        family = family._replace(
            trials=[{"inner.learning_rate": rate} for rate in OMNIGLOT_RATES],
            tuning_steps=OMNIGLOT_TUNING_STEPS,
        )
    k_max = _K_MAX.value or family.k_max
    family.base.update_from_flattened_dict(shared_settings(task, k_max, _COST.value))
    measure = family.measure
    if measure == "loss":  # by the median, in tuning as in the comparison
        measure = "loss_median"
        family = family._replace(tuned_by="validation_loss_median", nonfinite_allowed=0.01)
    name, arms = f"acceleration_{task}_{k_max}", make_arms(task)
    name += f"_cost_{_COST.value}" if _COST.value != 1 else ""
    if _FIRST_SEED.value:
        family = family._replace(first_seed=_FIRST_SEED.value)
        name += f"_seeds_{_FIRST_SEED.value}"
    first = f"acceleration_{task}_{family.k_max}"
    if name != first:
        arms, family = as_chosen(arms, results_io.read(first)), family._replace(trials=[{}])
    study_cli.run(name, family, arms, lambda of: best_gradient_descent(of, measure))


if __name__ == "__main__":
    cli.run(main)
