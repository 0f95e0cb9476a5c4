"""Training and evaluation on many devices; no other part of the library depends on devices.

`devices` lists them, `training` has the train loop, `evaluation` the evaluation, and `hosts` the
processes of a run on several hosts.
"""

from maml_jax.parallel.devices import (
    available_devices,
    cores_that_divide,
    local_tasks,
    use_cpu_devices,
)
from maml_jax.parallel.evaluation import (
    EpisodeEvaluationFn,
    EvaluationFn,
    evaluate,
    make_episode_evaluation,
    make_evaluation,
)
from maml_jax.parallel.training import PopulationLoop, make_population_loop, make_train_loop

__all__ = [
    "EpisodeEvaluationFn",
    "EvaluationFn",
    "PopulationLoop",
    "available_devices",
    "cores_that_divide",
    "evaluate",
    "local_tasks",
    "make_episode_evaluation",
    "make_evaluation",
    "make_population_loop",
    "make_train_loop",
    "use_cpu_devices",
]
