"""Figure of a compiled inner loop: which tensors move in which steps, and how long that takes."""

import dataclasses
import statistics
import time
from itertools import pairwise

import jax
from matplotlib.figure import Figure

from maml_jax.keys import stream_key
from maml_jax.lengths.schedule import Schedule
from maml_jax.run.figures.runs import Run
from maml_jax.run.figures.style import count
from maml_jax.types import Array, MetaParams, PyTree

_REPEATS = 5


def segment_milliseconds(run: Run, schedule: Schedule) -> list[float]:
    """Milliseconds of each segment for one test task, the median of five calls; 0 if none moves."""
    spec, problem = run.experiment.spec, run.experiment.problem
    sample = problem.sampler(spec.eval.shots, spec.eval.query_shots, "test")
    key = stream_key(spec.seed, "test")
    support = jax.jit(lambda key: sample(key).support)(key)
    loop = dataclasses.replace(run.experiment.inner_loop(spec.eval.num_steps), schedule=schedule)
    carry: PyTree = None
    milliseconds = []
    for segment in schedule.segments(spec.eval.num_steps):
        piece = dataclasses.replace(loop, num_steps=segment.num_steps)
        start, seconds = segment.start, list[float]()

        @jax.jit
        def take(
            meta_params: MetaParams, support: PyTree, key: Array, carry: PyTree,
            piece: object = piece, start: int = start,
        ) -> PyTree:  # fmt: skip
            return piece(meta_params, support, key, start=start, carry=carry).carry  # type: ignore

        after = carry
        for _ in range(_REPEATS + 1 if segment.moving else 0):
            started = time.perf_counter()
            after = jax.block_until_ready(take(run.meta_params, support, key, carry))
            seconds.append(time.perf_counter() - started)
        milliseconds.append(1e3 * statistics.median(seconds[1:]) if seconds else 0.0)
        carry = after
    return milliseconds


def segments(runs: list[Run]) -> Figure | None:
    """The steps in which each tensor moves, cut into the segments of the compiled loop."""
    run = runs[0]
    steps = run.experiment.spec.eval.num_steps
    schedule = run.experiment.learned.schedule(run.meta_params, steps)
    if schedule is None or not schedule.most:
        return None
    last, times = schedule.last_steps, segment_milliseconds(run, schedule)
    figure = Figure(figsize=(6.4, 0.32 * len(last) + 1.6))
    axes = figure.subplots()
    axes.barh([*last], [*last.values()], height=0.7)
    axes.invert_yaxis()
    parts = [of for of in schedule.segments(steps) if of.moving]
    edges = [0, *(of.start + of.num_steps for of in parts)]
    for (left, right), milliseconds in zip(pairwise(edges), times, strict=False):
        axes.axvline(right, color="0.5", linestyle=":")
        text = f"{milliseconds:.2g} ms"
        axes.annotate(
            text, ((left + right) / 2, 1.01), xycoords=("data", "axes fraction"), ha="center",
            va="bottom", fontsize="small", rotation=90 if right - left < steps / 8 else 0,
        )  # fmt: skip
    axes.set(xlabel="inner steps", xlim=(0, steps))
    count(axes.xaxis)
    return figure
