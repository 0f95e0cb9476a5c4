"""Pruned schedules: the cheapest inner loop that is almost as good, found on validation tasks."""

import dataclasses
import functools
import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from maml_jax.errors import UsageError
from maml_jax.keys import stream_key
from maml_jax.lengths.schedule import Schedule
from maml_jax.parallel import make_episode_evaluation
from maml_jax.params import with_paths
from maml_jax.run import files
from maml_jax.run.build import Experiment
from maml_jax.run.files import Record
from maml_jax.run.workdir import MakeSchedule
from maml_jax.types import Array, MetaParams, Params, PyTree

FILE = "schedule.json"
Score = Callable[
    [dict[str, int]], np.ndarray
]  # last steps -> one value an episode, higher is better


class Pruned(NamedTuple):
    """A schedule, and what it costs."""

    schedule: Schedule
    drop: float  # mean over validation tasks, in the units of the score
    drop_ci95: float  # half-width of its 95% confidence interval, over paired episodes
    compute: float  # C, FLOPs a task
    compute_before: float


def prune_schedule(
    score: Score, compute: Callable[[dict[str, int]], float], start: Schedule, tolerance: float
) -> Pruned:
    """Greedy search for the cheapest schedule whose mean score drops by at most the tolerance.

    Tensor after tensor, beginning with the one that saves most, the smallest last step is found by
    bisection that keeps the drop within the tolerance. This is repeated until nothing changes.

    Args:
      score: evaluates last steps on the same episodes at each call.
      compute: C of last steps.
      start: the schedule to begin with.
      tolerance: in the units of the score.
    """
    steps, at_first = dict(start.last_steps), compute(dict(start.last_steps))
    reference = score(steps)

    def allowed(tried: dict[str, int]) -> bool:
        return float(np.mean(reference - score(tried))) <= tolerance

    def shortest(path: str) -> int:
        low, high = 0, steps[path]  # high is allowed
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if allowed(steps | {path: middle}) else (middle + 1, high)
        return high

    with tqdm(desc="pruning", unit=" tries") as progress:
        changed = True
        while changed:
            before = dict(steps)
            for path in sorted(steps, key=lambda path: compute(steps | {path: 0})):
                if steps[path] and compute(steps | {path: 0}) < compute(steps):
                    steps[path] = shortest(path)
                progress.update()
                progress.set_postfix(compute=f"{compute(steps) / (at_first or 1):.0%}")
            changed = steps != before
    drops = reference - score(steps)
    error = 1.96 * float(np.std(drops, ddof=1)) / len(drops) ** 0.5
    return Pruned(Schedule(steps), float(np.mean(drops)), error, compute(steps), at_first)


def prune(experiment: Experiment, meta_params: MetaParams, tolerance: float) -> Pruned:
    """Prunes the schedule of a run on its validation tasks; test tasks take no part.

    Args:
      experiment: the run's functions.
      meta_params: what it has learned.
      tolerance: drop of the accuracy in percentage points, or, of a regression, rise of the loss in
        percent.

    Raises:
      UsageError: the run learns no lengths, or the tolerance is not allowed.
    """
    spec, learned = experiment.spec, experiment.learned
    start = learned.schedule(meta_params, spec.eval.num_steps)
    if start is None or learned.gates is None:
        raise UsageError(f"lengths.gate={spec.lengths.gate!r} learns no lengths to prune")
    if not 0 <= tolerance < 100:
        raise UsageError(f"--prune={tolerance} is not allowed; use 0 or more, below 100")
    hard = learned.gates.hard

    def gates(lengths: tuple[PyTree, PyTree], params: Params, k: Array) -> PyTree:
        values, last_steps = lengths
        return jax.tree.map(
            lambda gate, last: gate * (k < last), hard(values, params, k), last_steps
        )

    evaluate = make_episode_evaluation(
        dataclasses.replace(experiment.inner_loop(spec.eval.num_steps), gates=gates),
        experiment.problem.query_loss or experiment.problem.loss,
        experiment.problem.sampler(spec.eval.shots, spec.eval.query_shots, "validation"),
        num_episodes=spec.eval.validation_episodes,
        chunk=spec.eval.chunk,
        step=0,
    )
    key, structure = stream_key(spec.seed, "validation"), jax.tree.structure(learned.adapted)
    paths = list(with_paths(learned.adapted))

    @functools.cache
    def values_of(schedule: Schedule) -> dict[str, Any]:
        steps = schedule.last_steps
        last = jax.tree.unflatten(structure, [jnp.int32(steps[path]) for path in paths])
        capped = meta_params._replace(lengths=(meta_params.lengths, last))
        return {name: values[:, -1] for name, values in evaluate(capped, key).items()}

    first = values_of(start)
    if "accuracy" in first:
        name, factor = "accuracy", 100.0
    else:
        name, factor = "loss", -100.0 / abs(float(np.mean(first["loss"])))
    return prune_schedule(
        lambda steps: factor * np.asarray(values_of(Schedule(dict(steps)))[name]),
        lambda steps: learned.compute({path: np.asarray(of) for path, of in steps.items()}),
        start,
        tolerance,
    )


def adaptation_milliseconds(
    experiment: Experiment, meta_params: MetaParams, schedules: Mapping[str, Schedule | None]
) -> dict[str, float]:
    """Milliseconds of adapting to one validation task by each schedule; None is the masked loop.

    Medians of seven calls, in the order A B C A B C ..., after one that compiles.
    """
    spec, key = experiment.spec, stream_key(experiment.spec.seed, "validation")
    sample = experiment.problem.sampler(spec.eval.shots, spec.eval.query_shots, "validation")
    support = jax.jit(lambda key: sample(key).support)(key)
    loop = experiment.inner_loop(spec.eval.num_steps)
    adapt = {
        name: jax.jit(dataclasses.replace(loop, schedule=schedule))
        for name, schedule in schedules.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in adapt}
    for _ in range(8):
        for name, fn in adapt.items():
            started = time.perf_counter()
            jax.block_until_ready(fn(meta_params, support, key).params)
            seconds[name].append(time.perf_counter() - started)
    return {name: 1e3 * statistics.median(of[1:]) for name, of in seconds.items()}


def write_schedule(workdir: pathlib.Path, pruned: Pruned, about: Record) -> None:
    """Writes schedule.json beside a run.

    Raises:
      UsageError: the file cannot be written.
    """
    record = about | {"last_steps": dict(pruned.schedule.last_steps)}
    record |= {name: value for name, value in pruned._asdict().items() if name != "schedule"}
    files.write(workdir / FILE, json.dumps(record, indent=2) + "\n")


def read_schedule(workdir: str | os.PathLike[str], meta_step: int) -> Schedule:
    """The pruned schedule of a run, made of the parameters at this meta-step.

    Raises:
      UsageError: there is none, or it is one of other parameters.
    """
    how = f"python -m experiments.lengths --workdir={workdir} --prune=0.2"
    path = files.local_folder(workdir) / FILE
    record = files.read_json(path)
    if record is None:
        raise UsageError(f"workdir {workdir} has no pruned schedule; make it with {how}")
    if record.get("meta_step") != meta_step:
        raise UsageError(
            f"{path} is of meta-step {record.get('meta_step')}, the run stands at "
            f"{meta_step}; make it anew with {how}"
        )
    return Schedule({path: int(steps) for path, steps in record["last_steps"].items()})


def schedule_maker(kind: str, workdir: pathlib.Path, last: int) -> MakeSchedule | None:
    """What makes the schedule of an evaluation that is `compiled`, `pruned` or `masked`.

    A pruned schedule is that of the parameters at meta-step `last`; others are masked.
    """
    pruned = read_schedule(workdir, last) if kind == "pruned" else None
    makers: dict[str, MakeSchedule | None] = {
        "compiled": None,  # that of the learned lengths
        "masked": lambda state: None,
        "pruned": lambda state: pruned if int(state.step) == last else None,
    }
    return makers[kind]
