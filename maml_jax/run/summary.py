"""The result of a run in three plain sentences."""

import math

from maml_jax.run.figures.runs import Run, data_name, loss_name
from maml_jax.run.files import Record
from maml_jax.run.formats import (
    diverged,
    duration,
    interval,
    measure_of,
    number,
    percentage,
    plural,
)

_BASELINES = {  # what they are
    "pretrained": "trained on all tasks at once, then fine-tuned",
    "oracle": "told amplitude and phase",
    "random": "not trained, only fine-tuned",
}


def sentences(runs: list[Run]) -> list[str]:
    """What was trained, how well it does before and after adaptation, and what stands out.

    Args:
      runs: the run and its baselines.
    """
    run = runs[0]
    last = _lengths(run) if "lengths" in run.shown else _others(runs)
    return [_trained(run), _adapted(run), last]


def _task(run: Run) -> str:
    spec = run.experiment.spec
    shots = spec.task.shots
    if spec.task.name == "images":
        return f"{spec.task.ways}-way {shots}-shot classification ({data_name(spec)})"
    if spec.task.name == "sinusoid":
        return f"regression of sine waves from {plural(shots, 'point')}"
    if spec.task.name == "rl":
        rollouts = plural(shots, "rollout")
        return f"reinforcement learning ({data_name(spec)}) with {rollouts} for each update"
    return f"the task {spec.task.name} with {plural(shots, 'support example')}"


def _trained(run: Run) -> str:
    spec, record = run.experiment.spec, run.record
    text = (
        f"{spec.algorithm} ({spec.entry.summary}) was trained on {_task(run)} for "
        f"{plural(record['meta_step'], 'meta-step')} of {plural(spec.meta_batch_size, 'task')}"
    )
    seconds = record.get("train_seconds")
    if isinstance(seconds, int | float) and math.isfinite(seconds):
        text += f", which took {duration(seconds)}"
    if "selected" in record:
        step = run.shown["meta_step"]
        text += f"; validation selected the parameters of meta-step {step:,}"
    return f"{text}."


def _with_median(record: Record, measure: str, step: int) -> str:
    percent = measure == "accuracy"
    sign = "%" if percent else ""
    text = interval(record[measure][step], record[f"{measure}_ci95"][step], percent=percent) + sign
    medians = record.get(f"{measure}_median")
    if medians is None:
        return text
    median = percentage(medians[step]) if percent else number(medians[step])
    return f"{text} (median {median})"


def _adapted(run: Run) -> str:
    spec, record = run.experiment.spec, run.shown
    measure = measure_of(record)
    name = loss_name(spec).partition(",")[0] if measure == "loss" else measure
    before, after = record[measure][0], record[measure][-1]
    known = all(value is not None and math.isfinite(value) for value in (before, after))
    verb = "goes" if not known or before == after else "rises" if after > before else "falls"
    count, total = diverged(record), record["num_episodes"]
    steps = plural(len(record[measure]) - 1, "inner step")
    text = (
        f"On {plural(total, 'test task')} with {plural(record['shots'], _example(run))} the "
        f"{name} {verb} from a mean of {_with_median(record, measure, 0)} before adaptation to "
        f"{_with_median(record, measure, -1)} after {steps}"
    )
    if not count:
        return f"{text}; no task diverged."
    return f"{text}; {plural(count, 'task')} of these ({percentage(count / total)}) diverged."


def _example(run: Run) -> str:
    return {"sinusoid": "support point", "images": "support image", "rl": "rollout"}.get(
        run.experiment.spec.task.name, "support example"
    ) + (" of each class" if run.experiment.spec.task.name == "images" else "")


def _lengths(run: Run) -> str:
    record, most = run.shown, run.experiment.learned.most
    of = record["lengths"]
    text = (
        f"Learned lengths: a parameter takes {of['length/mean']:.1f} of at most {most} inner steps "
        f"on average, {percentage(of['length/share_at_0'])} of the parameters never adapt"
    )
    means = {path: _mean(counts) for path, counts in record.get("length_counts", {}).items()}
    if len(means) > 1:
        longest, shortest = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
        text += (
            f", and most steps go to {longest} ({means[longest]:.1f}), fewest to {shortest} "
            f"({means[shortest]:.1f})"
        )
    return f"{text}; this costs {percentage(of['inner_compute_share'])} of the full compute."


def _mean(counts: list[int]) -> float:
    return sum(k * of for k, of in enumerate(counts)) / max(sum(counts), 1)


def _explained(run: Run) -> str:
    known = _BASELINES | ({"oracle": "told the task"} if "return" in run.record else {})
    return f" ({known[run.name]})" if run.name in known else ""


def _others(runs: list[Run]) -> str:
    """What the baselines reach, or that every parameter takes every step."""
    measure = measure_of(runs[0].record)
    reached = [
        f"the {run.name} baseline{_explained(run)} reaches {_with_median(run.shown, measure, -1)}"
        for run in runs[1:]
        if measure in run.record
    ]
    if reached:
        return f"For comparison, {' and '.join(reached)}."
    steps = plural(len(runs[0].shown["loss"]) - 1, "inner step")
    return f"No lengths are learned: every parameter that adapts takes all {steps}."
