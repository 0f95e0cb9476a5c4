"""What the binaries of the studies share: their flags, and tune, train, compare, keep."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags

from experiments import cli, results_io, studies, task_flag
from experiments.studies import Arm, Family
from experiments.task_flag import TASK
from maml_jax import provenance
from maml_jax.errors import UsageError

WORKDIR = cli.define_workdir()
flags.adopt_module_key_flags(task_flag)
ARMS = flags.DEFINE_list("arms", None, "names of arms; all by default")
KEEP = flags.DEFINE_bool("keep", None, "keep the result; by default where all arms were trained")
EXTEND = flags.DEFINE_bool("extend", False, "add the arms to the kept result")
SEEDS = flags.DEFINE_integer("seeds", None, "number of seeds; that of the study by default")
STEPS = flags.DEFINE_integer("steps", None, "meta-steps of a run")


def family() -> Family:
    """That of --task and --steps."""
    return studies.family(TASK.value, STEPS.value)


def run(
    name: str, family: Family, arms: Mapping[str, Arm], reference: Callable[[dict[str, Any]], str]
) -> None:
    """Runs the chosen arms and keeps the result as NAME, compared to the record's reference arm."""
    chosen = studies.select(arms, ARMS.value)
    study = studies.Study(family, arms, SEEDS.value or family.seeds)
    earlier = results_io.read(name) if EXTEND.value else {}
    kept = studies.kept_arms(study, earlier) if earlier else {}
    if lost := set(earlier.get("arms", ())) - set(kept) - set(chosen):
        raise UsageError(
            f"--extend would lose {', '.join(sorted(lost))}, kept with other settings; "
            "add to --arms, to train again"
        )
    study = study._replace(arms={arm: arms[arm] for arm in arms if arm in chosen or arm in kept})
    record = studies.run(study, pathlib.Path(WORKDIR.value), kept)
    if earlier:
        source = {key: earlier[key] for key in provenance.KEYS} | {"arms": list(kept)}
        record["extends"] = [*earlier.get("extends", ()), source]
    if KEEP.value or (KEEP.value is None and not ARMS.value):
        studies.keep(name, record, family.measure, reference(record))
