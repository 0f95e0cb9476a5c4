"""What a study consists of: a family of tasks, arms to compare on it, and the number of seeds."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from ml_collections import ConfigDict

from configs import omniglot
from maml_jax.errors import UsageError
from maml_jax.run.config import default_config

ConfigValue = str | float | tuple[str, ...]
Overrides = Mapping[str, ConfigValue]  # dotted config key -> value
T = TypeVar("T")


class Family(NamedTuple):
    """A family of tasks, and the size of the runs on it."""

    base: ConfigDict
    trials: Sequence[Overrides]  # what every arm is tuned over
    tuning_steps: int  # meta-steps of a tuning run
    tuning_seeds: int  # whose scores are averaged
    seeds: int
    wait: float  # share of the meta-steps before lengths are learned
    first_seed: int  # of the reported runs; settings were tried out on lower ones
    steps: int  # inner steps of MAML whose compute all arms are held to
    k_max: int
    measure: str  # of the evaluation; "loss" or "accuracy"
    tuned_by: str = "validation_score"  # what tuning maximises: accuracy or −loss; or a loss's name
    nonfinite_allowed: float = 0.0  # share of validation tasks; a trial with more is rejected


class Arm(NamedTuple):
    """One side of a comparison."""

    overrides: Overrides
    knob: Sequence[Overrides] = ({},)  # further values to tune, crossed with the family's trials


class Study(NamedTuple):
    """A comparison of arms on one family of tasks."""

    family: Family
    arms: Mapping[str, Arm]
    seeds: int

    @property
    def reported_seeds(self) -> range:
        """The seeds of the reported runs."""
        return range(self.family.first_seed, self.family.first_seed + self.seeds)


def schedule_of(num_meta_steps: int, wait: float) -> dict[str, int]:
    """Overrides of everything that depends on the number of meta-steps."""
    return {
        "num_meta_steps": num_meta_steps,
        "outer.lengths_from": round(wait * num_meta_steps),
        "outer.multi_step_anneal": max(num_meta_steps // 10, 1),  # published: of 100,000
    }


def step_size_trials(step_sizes: Sequence[float]) -> list[Overrides]:
    """One trial per inner step size."""
    return [{"inner.step_size": step_size} for step_size in step_sizes]


def _sinusoid(num_meta_steps: int) -> Family:
    wait, base = 0.25, default_config()
    base.update_from_flattened_dict(
        {
            "baselines": (),
            "eval.shots": 10,
            "eval.query_shots": 100,
            "outer.schedule": "cosine",
            "eval.num_episodes": 1_000,
            "outer.clip_norm": 1.0,
            "outer.learning_rate": 6e-3,
            **schedule_of(num_meta_steps, wait),
        }
    )
    return Family(
        base,
        step_size_trials((0.0025, 0.005, 0.01, 0.02, 0.04)),
        tuning_steps=2_000,
        tuning_seeds=2,
        seeds=10,
        wait=wait,
        first_seed=401,
        steps=5,
        k_max=20,
        measure="loss",
    )


def _omniglot(num_meta_steps: int) -> Family:
    wait, base = 0.0, omniglot.get_config("20way_1shot_cpu")
    base.update_from_flattened_dict(
        {
            "meta_batch_size": 4,
            "model.filters": 32,
            "eval.num_episodes": 600,
            "eval.validation_every": 0,
            "outer.clip": 1.0,
            "outer.learning_rate": 3e-3,
            **schedule_of(num_meta_steps, wait),
        }
    )
    return Family(
        base,
        step_size_trials((1.0, 2.0)),
        tuning_steps=500,
        tuning_seeds=1,
        seeds=3,
        wait=wait,
        first_seed=101,
        steps=3,
        k_max=10,
        measure="accuracy",
    )


def family(name: str, num_meta_steps: int | None = None) -> Family:
    """The sinusoid, or Omniglot 20-way 1-shot with 32 filters and 4 tasks per meta-batch."""
    if name == "sinusoid":
        return _sinusoid(num_meta_steps or 6_000)
    return _omniglot(num_meta_steps or 4_000)


def configure(study: Study, *overrides: Overrides) -> ConfigDict:
    """The family's config with these overrides."""
    config = ConfigDict(study.family.base.to_dict())
    for changes in overrides:
        config.update_from_flattened_dict(dict(changes))
    return config


def select(arms: Mapping[str, T], names: Sequence[str] | None) -> dict[str, T]:
    """The named arms, or all of them if no names are given.

    Raises:
      UsageError: an unknown name.
    """
    unknown = set(names or ()) - set(arms)
    if unknown:
        raise UsageError(f"--arms={','.join(sorted(unknown))} is unknown; use {', '.join(arms)}")
    return {name: arms[name] for name in names or arms}
