"""Time of adaptation by trained runs, with masked, compiled and pruned inner loops.

python -m experiments.benchmarks.schedules --runs=maml=runs/maml,adaptive_k=runs/adaptive_k
python -m experiments.benchmarks.schedules --runs=maml=runs/m0,maml=runs/m1,anil=runs/a0,...

Adapts to one test task and to many with every run, and trains ten meta-steps, in one process and in
the order A B C A B C ... A run with learned lengths is timed as `NAME masked`, `NAME compiled` and,
where `experiments.lengths --prune` has been used, `NAME pruned`. Runs with the same name are its
seeds, in the same order for every name; the first one is timed. Each is evaluated on the same test
episodes; differences in accuracy are paired by task, and taken to the first name. The result is
kept in experiments/results/benchmark_schedules.json. --memory measures the meta-gradient against K
instead, and keeps benchmark_checkpoints.json.
"""

import dataclasses
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from configs.omniglot import get_config
from experiments import cli
from experiments.benchmarks.measuring import compare, temporary_megabytes
from experiments.publish import results
from experiments.publish.results import Record
from maml_jax import InnerLoop, MetaParams, Objective
from maml_jax.keys import stream_key, task_keys
from maml_jax.lengths import Schedule
from maml_jax.meta.batching import map_tasks
from maml_jax.run import provenance
from maml_jax.run.build import Experiment, build
from maml_jax.run.pruning import FILE, read_schedule
from maml_jax.run.training import fastest_chunk
from maml_jax.run.workdir import load_run
from maml_jax.types import Array, Params, TrainState

_RUNS = flags.DEFINE_list(
    "runs", [], "NAME=WORKDIR of trained runs with the same task; a NAME again for each seed"
)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "timed repetitions of each variant", lower_bound=5)
_TASKS = flags.DEFINE_integer("tasks", 100, "tasks of the larger batch", lower_bound=2)
_EPISODES = flags.DEFINE_integer("episodes", 2_000, "test episodes of the accuracy", lower_bound=2)
_MEMORY = flags.DEFINE_bool("memory", False, "measure memory and time of long loops instead")
_INNER_STEPS = (5, 20, 100, 400)
Variant = tuple[Experiment, MetaParams, Schedule | None]


def adaptation(
    experiment: Experiment, meta_params: MetaParams, schedule: Schedule | None, tasks: int
) -> Callable[[], Params]:
    """Adapts to the support data of so many test tasks; compiled at its first call."""
    spec = experiment.spec
    sample = experiment.problem.sampler(spec.eval.shots, spec.eval.query_shots, "test")
    keys = task_keys(jax.random.key(0), jnp.zeros((), jnp.int32), jnp.arange(tasks))
    support = jax.block_until_ready(jax.jit(jax.vmap(lambda key: sample(key).support))(keys))
    loop = dataclasses.replace(experiment.inner_loop(spec.eval.num_steps), schedule=schedule)

    @jax.jit
    def adapt(meta_params: MetaParams, support: Any) -> Params:
        def one(support: Any) -> Params:
            return loop(meta_params, support, stream_key(0, "test")).params

        return map_tasks(one, support, chunk=fastest_chunk(spec))

    return lambda: jax.block_until_ready(adapt(meta_params, support))


def variants(name: str, folder: pathlib.Path) -> dict[str, Variant]:
    """Label -> (experiment, meta-parameters, schedule) of a run."""
    experiment, state = load_run(folder, {"num_episodes": _EPISODES.value})
    meta_params = state.meta_params
    compiled = experiment.learned.schedule(meta_params, experiment.spec.eval.num_steps)
    if compiled is None:
        return {name: (experiment, meta_params, None)}
    schedules = {"masked": None, "compiled": compiled}
    if (folder / FILE).exists():
        schedules["pruned"] = read_schedule(folder, int(state.step))
    return {f"{name} {kind}": (experiment, meta_params, of) for kind, of in schedules.items()}


def accuracy(experiment: Experiment, meta_params: MetaParams, schedule: Schedule | None) -> Any:
    """Accuracy of every test episode after the last step, [episodes]."""
    evaluation = experiment.evaluate(meta_params, schedule=schedule)
    return np.asarray(evaluation.per_episode["accuracy"][:, -1], np.float64)


def _half_width(values: np.ndarray) -> float:
    """Of the 95% interval of the mean over the tasks of all seeds."""
    return float(1.96 * values.std(ddof=1) / np.sqrt(values.size))


def compute(experiment: Experiment, meta_params: MetaParams, schedule: Schedule | None) -> float:
    """C, of what the program executes: the masked loop takes all steps in full."""
    learned = experiment.learned
    if schedule is None:
        return learned.costs.full(experiment.spec.eval.num_steps)
    return learned.compute({path: np.array(of) for path, of in schedule.last_steps.items()})


def training(made: Mapping[str, Sequence[Variant]]) -> dict[str, Callable[[], object]]:
    """Ten meta-steps of the first seed of every run; of lengths, masked and compiled for them."""
    variants: dict[str, Callable[[], object]] = {}
    for label, ((experiment, meta_params, schedule), *_) in made.items():
        if label.endswith(" pruned"):
            continue
        config = ConfigDict(experiment.config.to_dict())
        if experiment.learned.gates is not None:
            config.lengths.freeze_at = 1.0 if schedule is None else 1e-9
        train = build(config)
        state = train.init()._replace(meta_params=meta_params)

        def run(train: Experiment = train, state: TrainState = state) -> object:
            return jax.block_until_ready(train.train(jax.tree.map(jnp.copy, state), 10)[0].step)

        variants[label] = run
    return variants


def time_runs() -> None:
    """Times all runs and keeps the result."""
    made: dict[str, list[Variant]] = {}  # of every seed
    for run in _RUNS.value:
        name, _, folder = run.partition("=")
        for label, of in variants(name, pathlib.Path(folder)).items():
            made.setdefault(label, []).append(of)
    every = [(label, seed, of) for label, seeds in made.items() for seed, of in enumerate(seeds)]
    rows: dict[str, Record] = {
        label: {"compute": [compute(*of) for of in seeds]} for label, seeds in made.items()
    }
    for tasks in (1, _TASKS.value):
        timed = {label: adaptation(*seeds[0], tasks) for label, seeds in made.items()}
        for label, seconds in compare(timed, _ROUNDS.value).items():
            rows[label][f"milliseconds_{tasks}"] = [1e3 * value for value in seconds]
            print(f"{label:32s} {tasks:4d} tasks {1e3 * statistics.median(seconds):10.2f} ms")
    for label, times in compare(training(made), _ROUNDS.value).items():
        rows[label]["seconds_10_meta_steps"] = times
        print(f"{label:32s} {statistics.median(times) / 10:.3f} s a meta-step")
    tested = {label: np.stack([accuracy(*of) for of in seeds]) for label, seeds in made.items()}
    base = next(iter(tested.values()))
    for label, values in tested.items():
        rows[label]["accuracy"] = values.mean(1).tolist()
        rows[label]["accuracy_ci95"] = _half_width(values)
        differences = values - base[: len(values)]
        rows[label]["difference"] = differences.mean(1).tolist()
        rows[label]["difference_ci95"] = _half_width(differences)
        print(f"{label:32s} {100 * values.mean():.2f}%")
    record = {
        **provenance.describe(),
        "tasks": _TASKS.value,
        "episodes": _EPISODES.value,
        "configs": {label: seeds[0][0].config.to_dict() for label, seeds in made.items()},
        "last_steps": {f"{label} {n}": dict(of[2].last_steps) for label, n, of in every if of[2]},
        "rows": rows,
    }
    print(results.write("benchmark_schedules", record))


def meta_gradient(experiment: Experiment, **options: Any) -> tuple[jax.stages.Compiled, Params]:
    """The compiled mean meta-gradient of a batch of 8 tasks, and the initialization."""
    problem, learned = experiment.problem, experiment.learned
    sample = problem.sampler(1, 1, "train")
    inner_loop = InnerLoop(problem.loss, adapts=learned.adapts, **options)
    objective = Objective(inner_loop, problem.loss)
    step = jnp.zeros((), jnp.int32)
    keys = task_keys(jax.random.key(0), step, jnp.arange(8))

    def mean_loss(init: Params) -> Array:
        def one(key: Array) -> Array:
            meta_params = MetaParams(init, step_sizes=0.01)
            return objective(meta_params, sample(key), key, step, ())[0]

        return jax.vmap(one)(keys).mean()

    init = experiment.init().meta_params.init
    return jax.jit(jax.grad(mean_loss)).lower(init).compile(), init


def measure_memory() -> None:
    """Time and temporary memory of the meta-gradient on Omniglot against K."""
    experiment, rows = build(get_config("5way_1shot_cpu")), []
    for num_steps in _INNER_STEPS:
        kinds: dict[str, dict[str, Any]] = {
            "exact, nested": {"meta_gradient": "exact"},
            "exact, one scan": {"meta_gradient": "exact", "checkpoint_segments": 1},
            "reverse, nested": {"meta_gradient": "reverse"},
        }
        if num_steps < 100:
            kinds["reverse, one scan"] = {"meta_gradient": "reverse", "checkpoint_segments": 1}
        made = {n: meta_gradient(experiment, num_steps=num_steps, **of) for n, of in kinds.items()}
        rounds = _ROUNDS.value if num_steps < 400 else 1
        timed = {n: partial(_run, *of) for n, of in made.items() if num_steps < 400}
        seconds = compare(timed, rounds)
        for name, (compiled, _) in made.items():
            memory = temporary_megabytes(compiled)
            row: Record = {"num_steps": num_steps, "kind": name, "temporary_megabytes": memory}
            if name in seconds:
                row["milliseconds"] = [1e3 * value for value in seconds[name]]
            print(row)
            rows.append(row)
    record = {**provenance.describe(), "config": experiment.config.to_dict(), "rows": rows}
    print(results.write("benchmark_checkpoints", record))


def _run(compiled: jax.stages.Compiled, init: Params) -> Params:
    return jax.block_until_ready(compiled(init))


def main(_: list[str]) -> None:
    """Measures and keeps the results."""
    measure_memory() if _MEMORY.value else time_runs()


if __name__ == "__main__":
    cli.run(main)
