"""What the binaries of the studies share: their flags, and tune, train, compare, keep."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags

from experiments import cli, studies
from experiments.studies import Arm, Family

WORKDIR = cli.define_workdir()
TASK = flags.DEFINE_enum("task", "sinusoid", ["sinusoid", "omniglot"], "family of tasks")
ARMS = flags.DEFINE_list("arms", None, "names of arms; all by default")
KEEP = flags.DEFINE_bool("keep", None, "keep the result; by default where all arms were trained")
SEEDS = flags.DEFINE_integer("seeds", None, "number of seeds; 5 for sinusoid, 3 for omniglot")
STEPS = flags.DEFINE_integer("steps", None, "meta-steps of a run")


def family() -> Family:
    """That of --task and --steps."""
    return studies.family(TASK.value, STEPS.value)


def run(
    name: str, family: Family, arms: Mapping[str, Arm], reference: Callable[[dict[str, Any]], str]
) -> None:
    """Runs the chosen arms and keeps the result as NAME, compared to the record's reference arm."""
    study = studies.Study(family, studies.select(arms, ARMS.value), SEEDS.value or family.seeds)
    record = studies.run(study, pathlib.Path(WORKDIR.value))
    if KEEP.value or (KEEP.value is None and not ARMS.value):
        studies.keep(name, record, family.measure, reference(record))
