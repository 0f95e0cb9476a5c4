"""The command line of the studies: their flags, and tune, train, compare and keep."""

import functools
import pathlib
from collections.abc import Callable, Mapping

from absl import flags

from experiments import cli, executors
from experiments.publish import results
from experiments.publish.results import Record
from experiments.studies import runner, study, task_flag
from experiments.studies.runs import train_all
from experiments.studies.study import Arm, Family, Study
from experiments.studies.task_flag import TASK
from maml_jax.errors import UsageError
from maml_jax.run import provenance

WORKDIR = cli.define_workdir()
flags.adopt_module_key_flags(task_flag)
flags.adopt_module_key_flags(executors)
ARMS = flags.DEFINE_list("arms", None, "names of arms; all by default")
KEEP = flags.DEFINE_bool(
    "keep", None, "keep the result; by default only that of all arms, seeds and meta-steps"
)
EXTEND = flags.DEFINE_bool("extend", False, "keep the result beside the arms that are kept already")
SEEDS = flags.DEFINE_integer(
    "seeds", None, "number of seeds; that of the study by default", lower_bound=1
)
STEPS = flags.DEFINE_integer("steps", None, "meta-steps of a run", lower_bound=1)


def family() -> Family:
    """The family of --task and --steps."""
    return study.family(TASK.value, STEPS.value)


def trained(workdir: pathlib.Path, arm: str) -> list[pathlib.Path]:
    """Folders of an arm's runs, one per seed.

    Raises:
      UsageError: the folder has no run of the arm.
    """
    folders = sorted(workdir.glob(f"{arm}_[0-9][0-9][0-9]"))
    if not folders:
        raise UsageError(f"--workdir={workdir} has no runs of --arms={arm}")
    return folders


def _kept(name: str, whole: Study, chosen: Mapping[str, Arm]) -> dict[str, Record]:
    """The arms that stay in the kept result with --extend.

    Raises:
      UsageError: the result would lose an arm.
    """
    exists = (results.RESULTS / f"{name}.json").exists()
    earlier = results.read(name) if EXTEND.value or exists else {"arms": {}}
    kept = runner.kept_arms(whole, earlier) if EXTEND.value else {}
    if lost := set(earlier["arms"]) - set(kept) - set(chosen):
        fix = "kept with other settings; add to --arms" if EXTEND.value else "use --extend"
        raise UsageError(f"the result {name} would lose {', '.join(sorted(lost))}; {fix}")
    return kept


def run(
    name: str, family: Family, arms: Mapping[str, Arm], baseline: Callable[[Record], str]
) -> None:
    """Runs the chosen arms and keeps the result as NAME, compared to the record's baseline arm."""
    chosen = study.select(arms, ARMS.value)
    whole = Study(family, arms, SEEDS.value or family.seeds)
    complete = not (ARMS.value or SEEDS.value or STEPS.value)
    keeps = KEEP.value if KEEP.value is not None else EXTEND.value or complete
    kept = _kept(name, whole, chosen) if keeps else {}
    root = pathlib.Path(WORKDIR.value)
    train = functools.partial(
        train_all, largest=executors.MOST.value, train_groups=executors.chosen(root)
    )
    record = runner.run(whole._replace(arms=chosen), root, kept, train)
    if not keeps:
        return
    kept = _kept(name, whole, chosen)  # again: another process may have kept some meanwhile
    if EXTEND.value:
        earlier = results.read(name)
        source = {key: earlier[key] for key in provenance.KEYS} | {"arms": list(kept)}
        record["extends"] = [*earlier.get("extends", ()), source]
    together = {**kept, **record["arms"]}
    record["arms"] = {arm: together[arm] for arm in arms if arm in together}
    runner.keep(name, record, family.measure, baseline(record))
