"""Runs that a config describes: building, training, checkpoints, evaluation and reports.

`config` has the keys and turns a config into a typed `RunSpec` (`spec`); `build` turns it into
functions; `loop` trains and resumes; `workdir` knows the files of a run; `evaluation`, `learned`,
`report` and `figures` say what a run has learned. `algorithms` and `problems` have the tables of
algorithms and tasks. `loading` loads what a run has trained as a `model` that adapts and predicts.
"""

from maml_jax.run.algorithms import ALGORITHMS, Algorithm, register_algorithm
from maml_jax.run.build import Experiment
from maml_jax.run.config import default_config, resolve
from maml_jax.run.loading import load, pretrained
from maml_jax.run.loop import evaluate_run, train_and_evaluate
from maml_jax.run.model import Model
from maml_jax.run.problems import TASKS, Problem, build_model, register_task
from maml_jax.run.report import write_report
from maml_jax.run.spec import RunSpec
from maml_jax.run.workdir import load_run, read_config, read_evaluation

__all__ = [
    "ALGORITHMS",
    "TASKS",
    "Algorithm",
    "Experiment",
    "Model",
    "Problem",
    "RunSpec",
    "build_model",
    "default_config",
    "evaluate_run",
    "load",
    "load_run",
    "pretrained",
    "read_config",
    "read_evaluation",
    "register_algorithm",
    "register_task",
    "resolve",
    "train_and_evaluate",
    "write_report",
]
