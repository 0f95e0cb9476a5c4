"""Figures of the report: learning curves, held-out tasks, and learned lengths."""

from maml_jax.run.figures.cheetah import STICK_FIGURES
from maml_jax.run.figures.curves import ACCURACY, LEARNING_CURVE, LOSS
from maml_jax.run.figures.images import CONFUSION, EPISODE
from maml_jax.run.figures.lengths import length_pictures
from maml_jax.run.figures.returns import PATHS, RETURNS
from maml_jax.run.figures.runs import Draw, Picture, Run
from maml_jax.run.figures.style import STYLE
from maml_jax.run.figures.waves import WAVES
from maml_jax.run.formats import measure_of
from maml_jax.run.problems import TASKS

__all__ = ["STYLE", "TASK_PICTURES", "Draw", "Picture", "Run", "pictures"]

TASK_PICTURES: dict[str, list[Picture]] = {
    "sinusoid": [WAVES],
    "images": [EPISODE, CONFUSION],
}
ENVIRONMENT_PICTURES: dict[str, list[Picture]] = {
    "navigation": [PATHS],
    "half_cheetah_direction": [STICK_FIGURES],
    "half_cheetah_velocity": [STICK_FIGURES],
}


def _own_pictures(task: str) -> list[Picture]:
    """The figures that a registered task has added; the docstring of each explains it."""
    return [
        Picture(
            name.replace("_", " ").capitalize(),
            (draw.__doc__ or "A figure of this task.").strip().splitlines()[0],
            draw,
        )
        for name, draw in TASKS[task].figures.items()
    ]


def pictures(runs: list[Run]) -> list[Picture]:
    """The figures of a report, in their order.

    Args:
      runs: the run and its baselines.
    """
    task = runs[0].experiment.spec.task.name
    results = {"accuracy": [ACCURACY, LOSS], "return": [RETURNS]}.get(
        measure_of(runs[0].record), [LOSS]
    )
    of_task = _own_pictures(task) or TASK_PICTURES.get(task, [])
    if task == "rl":
        of_task = ENVIRONMENT_PICTURES.get(runs[0].experiment.spec.own["rl"].environment, [])
    return [*results, *of_task, *length_pictures(runs), LEARNING_CURVE]
