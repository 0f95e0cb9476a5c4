"""maml_jax: gradient-based meta-learning in JAX. See README.md.

The names below are those of a first hour. The rest is in the submodules: `inner` (the inner loop,
meta-gradients, step sizes and inner optimizers), `lengths` (learned numbers of inner steps),
`meta` (the meta-objective and the outer step), `tasks`, `models`, `parallel`, and `run` (runs that
a config describes).
"""

import importlib
from typing import Any

from maml_jax import inner, lengths, meta, models, parallel, tasks
from maml_jax.inner.adapt import InnerLoop
from maml_jax.inner.optimizers.registry import as_direction, sgd
from maml_jax.lengths.cost import Budget, LearnedLengths
from maml_jax.lengths.gates import Gates
from maml_jax.meta.objective import Objective, multi_step_weights
from maml_jax.meta.outer import keep_within, optax_outer, outer_chain
from maml_jax.meta.train_step import TrainStep, init_state
from maml_jax.parallel import evaluate, make_train_loop
from maml_jax.types import Episode, Examples, MetaParams

__version__ = "0.2.0"

__all__ = [
    "Budget",
    "Episode",
    "Examples",
    "Gates",
    "InnerLoop",
    "LearnedLengths",
    "MetaParams",
    "Objective",
    "TrainStep",
    "as_direction",
    "evaluate",
    "init_state",
    "inner",
    "keep_within",
    "lengths",
    "load",
    "make_train_loop",
    "meta",
    "models",
    "multi_step_weights",
    "optax_outer",
    "outer_chain",
    "parallel",
    "run",
    "sgd",
    "tasks",
]


def __getattr__(name: str) -> Any:
    """Imports `run` at its first use, as it takes as long as everything else together."""
    if name in ("run", "load"):
        run = importlib.import_module("maml_jax.run")
        return run if name == "run" else run.load
    raise AttributeError(f"module 'maml_jax' has no attribute {name!r}")
