"""What figures are drawn from and what they are: runs in, pictures with a sentence out."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from maml_jax.run.build import Experiment
from maml_jax.run.formats import plural
from maml_jax.run.spec import RunSpec
from maml_jax.types import MetaParams


class Run(NamedTuple):
    """A trained run, or one of its baselines."""

    name: str
    experiment: Experiment
    meta_params: MetaParams  # those that validation has selected, or else the last
    record: dict[str, Any]  # evaluation.json
    metrics: list[dict[str, Any]]  # lines of metrics.jsonl

    @property
    def shown(self) -> dict[str, Any]:
        """The evaluation of `meta_params`."""
        selected: dict[str, Any] = self.record.get("selected", {})
        return self.record | selected


Draw = Callable[[list[Run]], Figure | None]  # of the run and its baselines; None: nothing to show


class Picture(NamedTuple):
    """A figure of the report."""

    title: str
    caption: str  # what it shows, in a sentence or two
    draw: Draw
    pixels: bool = False  # whether it consists of images, which are small as PNG


def data_name(spec: RunSpec) -> str:
    """The data set or the task, without folders."""
    if spec.task.name == "rl":
        return str(spec.own["rl"].environment)
    images = spec.task.name == "images"
    return pathlib.PurePath(spec.data.name).name if images else spec.task.name


def describe_task(spec: RunSpec, shots: int, ways: int = 0) -> str:
    """As "omniglot, 5-way 1-shot", or "sinusoid, 5 support points"; 0 ways: those of the test."""
    if spec.task.name == "images":
        return f"{data_name(spec)}, {ways or spec.eval.ways}-way {shots}-shot"
    kind = {"sinusoid": "support point", "rl": "rollout"}.get(spec.task.name, "support example")
    return f"{data_name(spec)}, {plural(shots, kind)}"


def loss_name(spec: RunSpec) -> str:
    """What the loss of a task is, with its unit."""
    known = {"sinusoid": "mean squared error", "images": "cross-entropy, nats", "rl": "-return"}
    return known.get(spec.task.name, "loss")
