"""Adaptive K against MAML, Meta-SGD, sparse-MAML and others, at equal inner compute.

python -m experiments.studies.equal_compute --task=sinusoid --workdir=runs/equal_compute_sinusoid

Adaptive K may take up to K_max steps, but a dual variable keeps its inner compute at that of the
other arms, which take few steps. Every arm is tuned over the same inner step sizes, crossed with
two values of another knob, on validation tasks of other seeds. It is then trained with every seed.

An interrupted study resumes with the same command. The result is kept in
experiments/results/equal_compute_TASK.json. --arms trains only the named arms, so that several
processes can share a workdir, and keeps no result unless --keep is given. --extend adds them to the
kept result and does not need the workdirs of the arms in it.
"""

from functools import partial
from typing import NamedTuple

from absl import flags

from experiments import cli
from experiments.studies import cli as study_cli
from experiments.studies.study import Arm, ConfigValue, Overrides, step_size_trials
from experiments.studies.task_flag import TASK

flags.adopt_module_key_flags(study_cli)
# Steps of the last layer alone that cost one full step, within 4%, if features are charged in each.
HEAD_STEPS = 3
STEP_SIZES = {"sinusoid": (0.0025, 0.01, 0.04), "omniglot": (1.0, 2.0)}
OUTER_LEARNING_RATES = {"sinusoid": (6e-3, 1.2e-2), "omniglot": (3e-3, 6e-3)}
# Outer learning rates of learned step sizes: 1% and 10% of α.
STEP_SIZES_LEARNING_RATES = {"sinusoid": (1e-4,), "omniglot": (2e-3, 2e-2)}
FASTER = 1e-2  # for the step sizes of MAML++, as the later studies use it (results/HISTORY.md)


class Knob(NamedTuple):
    """A config key to tune, and the values to try."""

    key: str
    values: tuple[float, ...]


def _arm(
    task: str,
    algorithm: str,
    num_steps: int,
    own: Knob | None = None,
    more: Overrides | None = None,
) -> Arm:
    """An arm with one knob to tune, beside the inner step size.

    On the sinusoid this is the outer learning rate, and the arm's own knob stays at its first
    value. On Omniglot it is the arm's own knob, or the outer learning rate if it has none.
    """
    overrides: dict[str, ConfigValue] = {
        "algorithm": algorithm,
        "inner.num_steps": num_steps,
        "eval.num_steps": num_steps,
        **(more or {}),
    }
    if own and task == "sinusoid":
        overrides[own.key] = own.values[0]
    outer = Knob("outer.learning_rate", OUTER_LEARNING_RATES[task])
    tuned = own if own and task != "sinusoid" else outer
    return Arm(overrides, [{tuned.key: value} for value in tuned.values])


def _knobs(task: str, steps: int) -> dict[str, Knob]:
    """The knobs of single arms, by what they tune."""
    first, on_sinusoid = float(steps), task == "sinusoid"
    return {
        "step_sizes": Knob("outer.step_sizes_learning_rate", STEP_SIZES_LEARNING_RATES[task]),
        "masks": Knob("outer.lengths_learning_rate", (0.0075, 0.03)),
        "lengths": Knob("outer.lengths_learning_rate", (0.05,) if on_sinusoid else (0.02, 0.05)),
        "initial": Knob("lengths.initial_length", (first,) if on_sinusoid else (1.0, first)),
    }


def _held(task: str, steps: int, k_max: int) -> Overrides:
    """Learned lengths at the compute of so many full steps."""
    return {
        "lengths.gate": "straight_through",
        "lengths.cost": "compute",
        "lengths.budget": steps / k_max,
        "lengths.dual_rate": 0.1 if task == "sinusoid" else 0.02,
    }


def _common_arms(task: str, steps: int, k_max: int) -> dict[str, Arm]:
    """Arms on both tasks."""
    knobs, on_sinusoid = _knobs(task, steps), task == "sinusoid"
    step_sizes, held = knobs["step_sizes"], _held(task, steps, k_max)
    as_published: Overrides = {"outer.lengths_from": 0} if on_sinusoid else {}
    normalization: Overrides = {} if on_sinusoid else {"model.normalization": "per_step"}
    held_from_first: Overrides = {**held, "lengths.initial_length": float(steps)}
    with_step_sizes: Overrides = {
        **held_from_first,
        "inner.step_sizes": "parameter",
        step_sizes.key: step_sizes.values[0],
    }
    plus_plus: Overrides = {
        **held_from_first,
        "inner.step_sizes": "tensor_step",
        "outer.objective": "multi_step",
        **normalization,
    }
    return {
        "maml": _arm(task, "maml", steps),
        "maml_k_max": _arm(task, "maml", k_max),
        "anil": _arm(task, "anil", HEAD_STEPS * steps),
        "meta_sgd": _arm(task, "meta_sgd", steps, step_sizes),
        "maml_plus_plus": _arm(task, "maml_plus_plus", steps, step_sizes, normalization),
        "sparse_maml": _arm(task, "sparse_maml", steps, knobs["masks"], as_published),
        "adaptive_k": _arm(task, "adaptive_k", k_max, knobs["initial"], held),
        "adaptive_k_rates": _arm(task, "adaptive_k", k_max, knobs["lengths"], with_step_sizes),
        "adaptive_k_plus_plus": _arm(task, "adaptive_k", k_max, step_sizes, plus_plus),
    }


def _sinusoid_arms(steps: int, k_max: int) -> dict[str, Arm]:
    """Further arms on the sinusoid."""
    arm, knobs = partial(_arm, "sinusoid"), _knobs("sinusoid", steps)
    by_task: Overrides = {"outer.clip_norm": 0.0, "outer.task_clip_norm": 10.0}
    held_by_task: Overrides = {**_held("sinusoid", steps, k_max), **by_task}
    free: Overrides = {"lengths.gate": "straight_through"}
    faster = Knob("outer.step_sizes_learning_rate", (FASTER,))
    larger: list[Overrides] = [
        {"inner.step_size": max(STEP_SIZES["sinusoid"]), "outer.learning_rate": rate}
        for rate in OUTER_LEARNING_RATES["sinusoid"]
    ]
    maml_larger_step = arm("maml", steps)._replace(knob=larger)
    return {
        "maml_plus_plus_faster": arm("maml_plus_plus", steps, faster),
        "maml_larger_step": maml_larger_step,
        "adaptive_k_free": arm("adaptive_k", k_max, knobs["initial"], free),
        "sparse_relu_maml": arm("sparse_relu_maml", steps, knobs["step_sizes"]),
        "imaml": arm("imaml", steps, Knob("inner.proximal", (30.0,))),
        **{name: arm(name, steps) for name in ("fomaml", "reptile", "boil")},
        "maml_by_task": arm("maml", steps, more=by_task),
        "adaptive_k_by_task": arm("adaptive_k", k_max, knobs["initial"], held_by_task),
    }


def make_arms(task: str, steps: int, k_max: int) -> dict[str, Arm]:
    """Arms at the compute of so many steps of MAML; MAML at K_max, and adaptive K without a limit.

    All of them are tuned over the same number of trials.
    """
    arms = _common_arms(task, steps, k_max)
    return arms | _sinusoid_arms(steps, k_max) if task == "sinusoid" else arms


def main(_: list[str]) -> None:
    """Tunes, trains, compares and keeps."""
    task, family = TASK.value, study_cli.family()
    family = family._replace(trials=step_size_trials(STEP_SIZES[task]))
    arms = make_arms(task, family.steps, family.k_max)
    study_cli.run(f"equal_compute_{task}", family, arms, lambda _: "maml")


if __name__ == "__main__":
    cli.run(main)
