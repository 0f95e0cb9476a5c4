"""How far accelerated inner loops shorten learned lengths: adaptive K with each inner optimizer.

python -m experiments.studies.acceleration --task=sinusoid --workdir=runs/acceleration_sinusoid

All arms have the same cost of a step, the same initial length and K_max, and the same number of
trials on separate validation tasks. Gradient descent also gets learned step sizes, per tensor, per
parameter, and per tensor and step: only a gain over the best of the four counts as acceleration.

--k_max=40 repeats the study at twice the length, --cost=4 at a higher cost of a step, and
--first_seed=601 with other seeds, each in a workdir of its own. They use the step sizes that the
kept study chose, so that nothing else differs.

An interrupted study resumes with the same command. The result is kept in
experiments/results/acceleration_TASK_KMAX.json, with _cost_COST or _seeds_FIRST appended. --arms
trains only the named arms, so that several processes can share a workdir, and keeps no result
unless --keep is given. --extend adds them to the kept result and does not need the workdirs of the
arms in it.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from absl import flags

from experiments import cli
from experiments.publish import results
from experiments.publish.results import Record
from experiments.studies import cli as study_cli
from experiments.studies.comparisons import last
from experiments.studies.study import Arm, Family, Overrides, step_size_trials
from experiments.studies.task_flag import TASK
from maml_jax.errors import UsageError
from maml_jax.inner.optimizers.registry import INNER_OPTIMIZERS

flags.adopt_module_key_flags(study_cli)
_K_MAX = flags.DEFINE_integer(
    "k_max", None, "largest length; 20 for sinusoid, 10 for omniglot", lower_bound=1
)
_COST = flags.DEFINE_integer(
    "cost", 1, "cost of a step, relative to that of the study", lower_bound=1
)
_FIRST_SEED = flags.DEFINE_integer(
    "first_seed", None, "seed to begin with; that of the study by default", lower_bound=1
)

# Outer learning rates of step sizes that are not learned as logarithms. HISTORY.md in
# experiments/results says what else was tried, here and below.
STEP_SIZES_LEARNING_RATES = {
    "sinusoid": {"parameter": 1e-4, "tensor_step": 1e-2},
    "omniglot": {"parameter": 2e-3, "tensor_step": 2e-2},
}
MOST_SEEDS = 5  # there are four times as many arms as in the study at equal compute
# Arms of that study chose the lower of 1 and 2; momentum 0.8 makes a step size 5 times as large.
OMNIGLOT_STEP_SIZES = (0.25, 0.5, 1.0)
OMNIGLOT_TUNING_STEPS = 4_000  # all of them: shorter tuning favours small step sizes
# Cost of a step, as a factor of the mean length: the whole cost is some tenth of the loss.
STEP_COSTS = {"sinusoid": 0.001, "omniglot": 0.02}
INITIAL_LENGTHS = {"sinusoid": 5.0, "omniglot": 1.0}
TASK_CLIP_NORMS = {"sinusoid": 1.0, "omniglot": 10.0}


class Variant(NamedTuple):
    """What a repetition of the study changes; None and 1 stand for the study's own values."""

    k_max: int | None = None
    cost: int = 1
    first_seed: int | None = None


def shared_settings(task: str, k_max: int, cost: int = 1) -> Overrides:
    """Overrides that all arms have in common; the cost is relative to STEP_COSTS."""
    return {
        "algorithm": "adaptive_k",
        "inner.num_steps": k_max,
        "eval.num_steps": k_max,
        "lengths.gate": "straight_through",
        "lengths.initial_length": INITIAL_LENGTHS[task],
        "lengths.cost_weight": cost * STEP_COSTS[task] * k_max,
        "inner.momentum": 0.8,
        "outer.clip_norm": 0.0,
        "outer.task_clip_norm": TASK_CLIP_NORMS[task],
    }


def make_arms(task: str) -> dict[str, Arm]:
    """Gradient descent, also with learned step sizes, and every inner optimizer."""
    step_sizes: dict[str, Overrides] = {"tensor": {"inner.step_sizes": "tensor"}}
    for kind, rate in STEP_SIZES_LEARNING_RATES[task].items():
        step_sizes[kind] = {"inner.step_sizes": kind, "outer.step_sizes_learning_rate": rate}
    overrides: dict[str, Overrides] = {
        "gd": {},
        **{f"gd_rates_{kind}": of for kind, of in step_sizes.items()},
        **{name: {"inner.optimizer": name} for name in INNER_OPTIMIZERS if name != "sgd"},
        **{
            f"learned_momentum_{granularity}": {
                "inner.optimizer": "heavy_ball",
                "inner.learn_optimizer": granularity,
                **step_sizes[granularity],
            }
            for granularity in ("tensor", "parameter")
        },
        "meta_curvature_rates": {"inner.optimizer": "meta_curvature", **step_sizes["parameter"]},
        "meta_curvature_rates_tensor_step": {
            "inner.optimizer": "meta_curvature",
            **step_sizes["tensor_step"],
        },
    }
    return {
        name: Arm({**of, **_of_matrices(name)} if name.startswith("meta_curvature") else of)
        for name, of in overrides.items()
    }


def _of_matrices(arm: str) -> Overrides:
    return {
        "inner.learn_optimizer": "tensor" if arm.endswith("momentum") else "global",
        "outer.optimizer_learning_rate": 1e-3,  # one update changes every entry of a matrix
    }


def with_kept_choices(arms: Mapping[str, Arm], record: Record) -> dict[str, Arm]:
    """The arms that a kept study has with the same overrides, restricted to the chosen values."""
    kept = {
        name: record["arms"][name]["choice"]
        for name, arm in arms.items()
        if name in record["arms"] and record["arms"][name]["overrides"] == arm.overrides
    }
    return {name: arms[name]._replace(knob=(choice,)) for name, choice in kept.items() if choice}


def best_gradient_descent(record: Record, measure: str) -> str:
    """The baseline arm of accelerated methods: the gradient descent that is best on the tests.

    Raises:
      UsageError: no such arm was trained.
    """
    scores: dict[str, float] = {
        name: float(np.mean(last(arm["runs"], measure)))
        for name, arm in record["arms"].items()
        if arm["runs"] and "inner.optimizer" not in arm["overrides"]
    }
    if not scores:
        raise UsageError(f"--arms={','.join(record['arms'])} has no gd; add it")
    best = max if measure == "accuracy" else min
    return best(scores, key=lambda name: scores[name])


def prepare(task: str, family: Family, variant: Variant) -> tuple[str, Family, dict[str, Arm]]:
    """Name of the result, family and arms of the study, or of a variant of it.

    A variant takes its arms and their step sizes from the kept study.

    Raises:
      UsageError: a variant is asked for, and the study is not kept.
    """
    family = family._replace(seeds=min(family.seeds, MOST_SEEDS))
    if task == "omniglot":
        family = family._replace(
            trials=step_size_trials(OMNIGLOT_STEP_SIZES), tuning_steps=OMNIGLOT_TUNING_STEPS
        )
    if family.measure == "loss":  # by the median, in tuning as in the comparison
        family = family._replace(tuned_by="validation_loss_median", nonfinite_allowed=0.01)
    k_max = variant.k_max or family.k_max
    settings = shared_settings(task, k_max, variant.cost)
    family.base.update_from_flattened_dict(dict(settings))
    study_name, arms = f"acceleration_{task}_{family.k_max}", make_arms(task)
    name = f"acceleration_{task}_{k_max}"
    if variant.cost != 1:
        name += f"_cost_{variant.cost}"
    if variant.first_seed:
        family = family._replace(first_seed=variant.first_seed)
        name += f"_seeds_{variant.first_seed}"
    if name != study_name:
        arms = with_kept_choices(arms, results.read(study_name))
        family = family._replace(trials=[{}])
    return name, family, arms


def main(_: list[str]) -> None:
    """Tunes, trains, compares and keeps."""
    variant = Variant(_K_MAX.value, _COST.value, _FIRST_SEED.value)
    name, family, arms = prepare(TASK.value, study_cli.family(), variant)
    measure = "loss_median" if family.measure == "loss" else family.measure
    study_cli.run(name, family, arms, lambda record: best_gradient_descent(record, measure))


if __name__ == "__main__":
    cli.run(main)
