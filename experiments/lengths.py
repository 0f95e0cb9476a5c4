"""Shows the lengths, step sizes and inner optimizer that a run has learned, tensor by tensor.

python -m experiments.lengths --workdir=runs/adaptive_k

--prune=0.2 searches for the cheapest schedule that costs at most 0.2 percentage points of accuracy
on validation tasks (of a regression: 0.2 percent of the loss), writes it to
RUN/schedule.json, which `experiments.evaluate --schedule=pruned` uses, and times it.

--caps=10,15 also shows what long lengths are worth: the loss on validation tasks with every length
above a cap cut to it, without training again.
"""

import pathlib
from collections.abc import Callable

import numpy as np
from absl import flags

from experiments import cli
from maml_jax.lengths.schedule import Schedule
from maml_jax.run.build import Experiment
from maml_jax.run.learned import LearnedSummary
from maml_jax.run.messages import note
from maml_jax.run.pruning import FILE, adaptation_milliseconds, prune, write_schedule
from maml_jax.run.workdir import load_run
from maml_jax.types import MetaParams, TrainState

_WORKDIR = cli.define_workdir()
_CAPS = flags.DEFINE_list("caps", [], "lengths to cut longer ones to")
_PRUNE = flags.DEFINE_float("prune", None, "accuracy, in points, that a cheaper schedule may cost")
_EPISODES = flags.DEFINE_integer(
    "episodes",
    None,
    "validation episodes of --prune and --caps; default: those of the run",
    lower_bound=2,
)
_STATISTICS: dict[str, Callable[[np.ndarray], float]] = {
    "min": np.min,
    "mean": np.mean,
    "p90": lambda value: np.percentile(value, 90),
    "p99": lambda value: np.percentile(value, 99),
    "max": np.max,
}


def print_cut(experiment: Experiment, meta_params: MetaParams, caps: list[int]) -> None:
    """One row a cap: mean and median loss over validation tasks."""
    print("\ncap  mean loss  median")
    for cap in (experiment.learned.most, *caps):
        cut = experiment.learned.cut(meta_params, cap)
        loss = experiment.evaluate(cut, "validation").estimates["loss"]
        print(f"{cap:<4d} {loss.mean[-1]:<10.4g} {loss.median[-1]:.4g}")


def print_segments(schedule: Schedule, num_steps: int) -> None:
    """One line a segment: its steps and the tensors that move."""
    for segment in schedule.segments(num_steps):
        last = segment.start + segment.num_steps
        moving = ", ".join(sorted(segment.moving)) or "nothing"
        print(
            f"steps {segment.start + 1} to {last}: {moving}"
            if segment.num_steps > 1
            else f"step {last}: {moving}"
        )


def print_pruned(
    experiment: Experiment, state: TrainState, folder: pathlib.Path, tolerance: float
) -> None:
    """Searches for a cheaper schedule, writes it, and says what it costs."""
    spec, episodes = experiment.spec, experiment.spec.eval.validation_episodes
    note("pruning; compiling (once) ...")
    pruned = prune(experiment, state.meta_params, tolerance)
    about = {"meta_step": int(state.step), "tolerance": tolerance, "episodes": episodes}
    write_schedule(folder, pruned, about)
    unit = "points of accuracy" if experiment.problem.ways else "% of the loss"
    share = pruned.compute / (pruned.compute_before or 1)
    print(
        f"\npruned schedule, C {share:.0%} of that of the learned lengths, written to "
        f"{folder / FILE}"
    )
    drop = f"{pruned.drop:.3f} ± {pruned.drop_ci95:.3f}"
    print(f"it costs {drop} {unit} on {episodes} validation episodes")
    if pruned.drop_ci95 > max(tolerance, pruned.drop):
        note(
            f"the interval is wider than --prune={tolerance:g}, so the cost is uncertain; raise "
            f"--episodes, of which there were {episodes}"
        )
    print_segments(pruned.schedule, spec.eval.num_steps)
    learned = experiment.learned.schedule(state.meta_params, spec.eval.num_steps)
    schedules = {"masked": None, "compiled": learned, "pruned": pruned.schedule}
    times = adaptation_milliseconds(experiment, state.meta_params, schedules)
    shown = ", ".join(f"{name} {of:.3g} ms" for name, of in times.items())
    print(f"adapting to one task: {shown} (medians of 7)")


def table(learned: LearnedSummary, meta_params: MetaParams) -> list[list[str]]:
    """One row a tensor, below the head: its lengths and step sizes."""
    sizes, most = learned.step_sizes(meta_params), learned.most
    head = ["tensor", "shape", *(f"K {name}" for name in _STATISTICS), "at 0", f"at {most}"]
    rows = [[*head, "step size min", "mean", "max"]]
    for path, value in learned.lengths(meta_params).items():
        statistics = [f"{of(value):.2f}" for of in _STATISTICS.values()]
        shares = [f"{np.mean(value == 0):.0%}", f"{np.mean(value >= most):.0%}"]
        alpha = sizes[path]
        shown = [f"{number:.4g}" for number in (alpha.min(), alpha.mean(), alpha.max())]
        rows.append([path, "x".join(map(str, value.shape)) or "-", *statistics, *shares, *shown])
    return rows


def main(_: list[str]) -> None:
    """Prints the table, the inner compute and what else is learned."""
    folder = pathlib.Path(_WORKDIR.value)
    episodes = {"validation_episodes": _EPISODES.value} if _EPISODES.value else {}
    experiment, state = load_run(folder, episodes)
    learned, meta_params, caps = experiment.learned, state.meta_params, cli.whole_numbers(_CAPS)
    for cap in caps:
        learned.cut(meta_params, cap)  # a bad one is refused before any output
    rows = table(learned, meta_params)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    compute = learned.compute(learned.lengths(meta_params))
    fixed = "" if learned.gates else "; no lengths are learned: K is that of the test"
    print(f"\n{experiment.spec.algorithm} at meta-step {int(state.step)}{fixed}")
    share = compute / learned.costs.full(learned.most)
    print(f"inner compute C: {compute / 1e6:.4g} MFLOP a task, {share:.0%} of {learned.most} steps")
    for name, of in learned.values(meta_params).items():
        if not name.startswith("step_size/"):  # these are in the table
            print(f"{name}: {of['min']:.4g} to {of['max']:.4g}, mean {of['mean']:.4g}")
    if own := learned.optimizer_flops:
        print(f"of a full step, products of the inner optimizer: {own / 1e6:.4g} MFLOP")
    schedule = learned.schedule(meta_params, experiment.spec.eval.num_steps)
    if schedule is not None:
        print("\nschedule of the learned lengths")
        print_segments(schedule, experiment.spec.eval.num_steps)
    if _PRUNE.value is not None:
        print_pruned(experiment, state, folder, _PRUNE.value)
    if caps:
        print_cut(experiment, meta_params, caps)


if __name__ == "__main__":
    cli.run(main)
