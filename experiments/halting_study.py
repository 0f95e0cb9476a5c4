"""Adaptive K against MAML, Meta-SGD, sparse-MAML and others, at equal inner compute.

python -m experiments.halting_study --task=sinusoid --workdir=runs/halting_sinusoid

Adaptive K may take up to K_max steps, but a dual variable holds its inner compute at that of the
other arms' few steps. Every arm is tuned over the same inner learning rates, crossed with two
values of a knob of its own, on validation tasks of other seeds, and then trained with every seed.
Resumes where it was stopped; keeps its result in experiments/results/halting_TASK.json. With --arms
it trains these alone, so that several processes can share a workdir, and keeps no result unless
--keep; --extend adds them to the kept result, without the workdirs of the arms it has.
"""

from collections.abc import Sequence

from absl import flags

from experiments import cli, study_cli
from experiments.studies import Arm, Overrides

flags.adopt_module_key_flags(study_cli)
HEAD_STEPS = 3  # of the last layer alone cost what one full step does, within 4%
SINUSOID_ROWS = ("fomaml", "reptile", "boil")
ALPHAS = {"sinusoid": (0.0025, 0.01, 0.04), "omniglot": (1.0, 2.0)}
RATES_OF_RATES = {"sinusoid": (1e-4, 1e-3), "omniglot": (2e-3, 2e-2)}  # about 1% and 10% of α
OUTER_RATES = {"sinusoid": (6e-3, 1.2e-2), "omniglot": (3e-3, 6e-3)}  # all others: the first
Knob = tuple[str, Sequence[float]]  # key, values


def make_arms(task: str, steps: int, k_max: int) -> dict[str, Arm]:
    """Arms at the compute of so many steps of MAML; MAML at K_max, and adaptive K without a limit.

    Beside the inner rate each has one more knob with two values to tune.
    """

    def arm(algorithm: str, length: int, knob: Knob, more: Overrides | None = None) -> Arm:
        steps = {"inner.num_steps": length, "eval.num_steps": length}
        overrides = {"algorithm": algorithm, **steps, **(more or {})}
        return Arm(overrides, [{knob[0]: value} for value in knob[1]])

    outer = "outer.learning_rate", OUTER_RATES[task]
    rates = "outer.rates_learning_rate", RATES_OF_RATES[task]
    masks = "outer.halting_learning_rate", (0.0075, 0.03)
    lengths = "outer.halting_learning_rate", (0.02, 0.05)
    first = "halting.initial_length", (1.0, float(steps))
    free = {"halting.gate": "straight_through"}
    held = free | {
        "halting.cost": "compute",
        "halting.budget": steps / k_max,
        "halting.dual_rate": 0.02,
    }
    with_rates = held | {
        "halting.initial_length": float(steps),
        "inner.rates": "parameter",
        rates[0]: rates[1][0],
    }
    normalization = {"model.normalization": "per_step"} if task == "omniglot" else {}
    arms = {
        "maml": arm("maml", steps, outer),
        "maml_k_max": arm("maml", k_max, outer),
        "anil": arm("anil", HEAD_STEPS * steps, outer),
        "meta_sgd": arm("meta_sgd", steps, rates),
        "maml_plus_plus": arm("maml_plus_plus", steps, rates, normalization),
        "sparse_maml": arm("sparse_maml", steps, masks),
        "adaptive_k": arm("adaptive_k", k_max, first, held),
        "adaptive_k_rates": arm("adaptive_k", k_max, lengths, with_rates),
    }
    if task == "sinusoid":
        arms["adaptive_k_free"] = arm("adaptive_k", k_max, first, free)
        arms["sparse_relu_maml"] = arm("sparse_relu_maml", steps, rates)
        arms["imaml"] = arm("imaml", steps, ("inner.proximal", (30.0, 100.0)))
        arms |= {name: arm(name, steps, outer) for name in SINUSOID_ROWS}
    return arms


def main(_: list[str]) -> None:
    """Tunes, trains, compares and keeps."""
    task, family = study_cli.TASK.value, study_cli.family()
    family = family._replace(trials=[{"inner.learning_rate": rate} for rate in ALPHAS[task]])
    arms = make_arms(task, family.steps, family.k_max)
    study_cli.run(f"halting_{task}", family, arms, lambda _: "maml")


if __name__ == "__main__":
    cli.run(main)
