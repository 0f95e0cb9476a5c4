"""What the binaries of the studies share: their flags, and tune, train, compare, keep."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags

from experiments import cli, results_io, studies, task_flag
from experiments.studies import Arm, Family, Study
from experiments.task_flag import TASK
from maml_jax import provenance
from maml_jax.errors import UsageError

WORKDIR = cli.define_workdir()
flags.adopt_module_key_flags(task_flag)
ARMS = flags.DEFINE_list("arms", None, "names of arms; all by default")
KEEP = flags.DEFINE_bool(
    "keep", None, "keep the result; by default that of all arms, seeds and steps"
)
EXTEND = flags.DEFINE_bool("extend", False, "keep the result beside the arms that are kept already")
SEEDS = flags.DEFINE_integer(
    "seeds", None, "number of seeds; that of the study by default", lower_bound=1
)
JOBS = flags.DEFINE_integer("jobs", 1, "runs at once, each in a process of its own", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", None, "meta-steps of a run", lower_bound=1)


def family() -> Family:
    """That of --task and --steps."""
    return studies.family(TASK.value, STEPS.value)


def trained(workdir: pathlib.Path, arm: str) -> list[pathlib.Path]:
    """Folders of an arm's runs, one a seed.

    Raises:
      UsageError: the folder has no run of the arm.
    """
    runs = sorted(workdir.glob(f"{arm}_[0-9][0-9][0-9]"))
    if not runs:
        raise UsageError(f"--workdir={workdir} has no runs of --arms={arm}")
    return runs


def _kept(name: str, study: Study, chosen: Mapping[str, Arm]) -> dict[str, Any]:
    """With --extend the arms that stay in the kept result; no arm of it may be lost."""
    there = (results_io.RESULTS / f"{name}.json").exists()
    earlier = results_io.read(name) if EXTEND.value or there else {"arms": {}}
    kept = studies.kept_arms(study, earlier) if EXTEND.value else {}
    if lost := set(earlier["arms"]) - set(kept) - set(chosen):
        fix = "kept with other settings; add to --arms" if EXTEND.value else "use --extend"
        raise UsageError(f"the result {name} would lose {', '.join(sorted(lost))}; {fix}")
    return kept


def run(
    name: str, family: Family, arms: Mapping[str, Arm], reference: Callable[[dict[str, Any]], str]
) -> None:
    """Runs the chosen arms and keeps the result as NAME, compared to the record's reference arm."""
    chosen = studies.select(arms, ARMS.value)
    study = studies.Study(family, arms, SEEDS.value or family.seeds)
    whole = not (ARMS.value or SEEDS.value or STEPS.value)
    keeps = KEEP.value if KEEP.value is not None else EXTEND.value or whole
    kept = _kept(name, study, chosen) if keeps else {}
    root = pathlib.Path(WORKDIR.value)
    record = studies.run(study._replace(arms=chosen), root, kept, JOBS.value)
    if not keeps:
        return
    kept = _kept(name, study, chosen)  # again: another process may have kept some meanwhile
    if EXTEND.value:
        earlier = results_io.read(name)
        source = {key: earlier[key] for key in provenance.KEYS} | {"arms": list(kept)}
        record["extends"] = [*earlier.get("extends", ()), source]
    together = {**kept, **record["arms"]}
    record["arms"] = {arm: together[arm] for arm in arms if arm in together}
    studies.keep(name, record, family.measure, reference(record))
