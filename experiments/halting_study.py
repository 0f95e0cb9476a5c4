"""Adaptive K against MAML, Meta-SGD, sparse-MAML and others, at equal inner compute.

python -m experiments.halting_study --task=sinusoid --workdir=runs/halting_sinusoid

Adaptive K may take up to K_max steps, but a dual variable holds its inner compute at or below that
of the other arms' few steps. Every arm is tuned over the same inner learning rates, crossed with
two values of another knob, on validation tasks of other seeds, and then trained with every seed.
Resumes where it was stopped; keeps its result in experiments/results/halting_TASK.json. With --arms
it trains these alone, so that several processes can share a workdir, and keeps no result unless
--keep; --extend adds them to the kept result, without the workdirs of the arms it has.
"""

from collections.abc import Sequence

from absl import flags

from experiments import cli, study_cli
from experiments.studies import Arm, Overrides
from experiments.task_flag import TASK

flags.adopt_module_key_flags(study_cli)
HEAD_STEPS = 3  # of the last layer alone cost what one full step does, within 4%
SINUSOID_ROWS = ("fomaml", "reptile", "boil")
ALPHAS = {"sinusoid": (0.0025, 0.01, 0.04), "omniglot": (1.0, 2.0)}
OUTER_RATES = {"sinusoid": (6e-3, 1.2e-2), "omniglot": (3e-3, 6e-3)}
RATES_OF_RATES = {"sinusoid": (1e-4,), "omniglot": (2e-3, 2e-2)}  # 1% and 10% of α
Knob = tuple[str, Sequence[float]]  # key, values


def make_arms(task: str, steps: int, k_max: int) -> dict[str, Arm]:
    """Arms at the compute of so many steps of MAML; MAML at K_max, and adaptive K without a limit.

    Beside the inner rate each has one more knob with two values to tune: on the sinusoid the outer
    rate, on Omniglot a knob of its own, which is the outer rate where there is no other.
    """
    outer, on_sinusoid = ("outer.learning_rate", OUTER_RATES[task]), task == "sinusoid"

    def arm(algorithm: str, length: int, own: Knob = outer, more: Overrides | None = None) -> Arm:
        overrides = {"algorithm": algorithm, "inner.num_steps": length, "eval.num_steps": length}
        overrides |= dict(more or {})
        if on_sinusoid and own != outer:
            overrides[own[0]] = own[1][0]
        key, values = outer if on_sinusoid else own
        return Arm(overrides, [{key: value} for value in values])

    rates = "outer.rates_learning_rate", RATES_OF_RATES[task]
    masks = "outer.halting_learning_rate", (0.0075, 0.03)
    lengths = "outer.halting_learning_rate", (0.05,) if on_sinusoid else (0.02, 0.05)
    first = "halting.initial_length", (float(steps),) if on_sinusoid else (1.0, float(steps))
    free = {"halting.gate": "straight_through"}
    held = free | {
        "halting.cost": "compute",
        "halting.budget": steps / k_max,
        "halting.dual_rate": 0.1 if on_sinusoid else 0.02,
    }
    with_rates = held | {
        "halting.initial_length": float(steps),
        "inner.rates": "parameter",
        rates[0]: rates[1][0],
    }
    plus_plus = held | {
        "halting.initial_length": float(steps),
        "inner.rates": "tensor_step",
        "outer.objective": "multi_step",
    }
    as_published = {"outer.halting_from": 0} if on_sinusoid else {}
    normalization = {} if on_sinusoid else {"model.normalization": "per_step"}
    arms = {
        "maml": arm("maml", steps),
        "maml_k_max": arm("maml", k_max),
        "anil": arm("anil", HEAD_STEPS * steps),
        "meta_sgd": arm("meta_sgd", steps, rates),
        "maml_plus_plus": arm("maml_plus_plus", steps, rates, normalization),
        "sparse_maml": arm("sparse_maml", steps, masks, as_published),
        "adaptive_k": arm("adaptive_k", k_max, first, held),
        "adaptive_k_rates": arm("adaptive_k", k_max, lengths, with_rates),
        "adaptive_k_plus_plus": arm("adaptive_k", k_max, rates, plus_plus | normalization),
    }
    if on_sinusoid:
        arms["adaptive_k_free"] = arm("adaptive_k", k_max, first, free)
        arms["sparse_relu_maml"] = arm("sparse_relu_maml", steps, rates)
        arms["imaml"] = arm("imaml", steps, ("inner.proximal", (30.0,)))
        arms |= {name: arm(name, steps) for name in SINUSOID_ROWS}
        by_task = {"outer.clip_norm": 0.0, "outer.task_clip_norm": 10.0}
        arms["maml_by_task"] = arm("maml", steps, more=by_task)
        arms["adaptive_k_by_task"] = arm("adaptive_k", k_max, first, held | by_task)
    return arms


def main(_: list[str]) -> None:
    """Tunes, trains, compares and keeps."""
    task, family = TASK.value, study_cli.family()
    family = family._replace(trials=[{"inner.learning_rate": rate} for rate in ALPHAS[task]])
    arms = make_arms(task, family.steps, family.k_max)
    study_cli.run(f"halting_{task}", family, arms, lambda _: "maml")


if __name__ == "__main__":
    cli.run(main)
