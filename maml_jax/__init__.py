"""maml_jax: gradient-based meta-learning in JAX. See README.md."""

from maml_jax.inner.adapt import adapt
from maml_jax.inner.halting import Halting
from maml_jax.inner.optimizers import (
    adam,
    as_direction,
    heavy_ball,
    initial_hyper_params,
    make_inner_optimizer,
    nesterov,
    sgd,
)
from maml_jax.meta.cost import Budget, LearnedLengths, mean_length_cost
from maml_jax.meta.evaluate import Estimate
from maml_jax.meta.objective import make_objective, multi_step_weights
from maml_jax.meta.outer import (
    MetaObjective,
    OuterResult,
    OuterStep,
    keep_within,
    optax_outer,
    outer_chain,
)
from maml_jax.meta.train_step import init_state, make_train_step
from maml_jax.parallel import evaluate, make_train_loop
from maml_jax.types import Adaptation, Episode, Examples, MetaParams, TrainState

__version__ = "0.1.0"

__all__ = [
    "Adaptation",
    "Budget",
    "Episode",
    "Estimate",
    "Examples",
    "Halting",
    "LearnedLengths",
    "MetaObjective",
    "MetaParams",
    "OuterResult",
    "OuterStep",
    "TrainState",
    "adam",
    "adapt",
    "as_direction",
    "evaluate",
    "heavy_ball",
    "init_state",
    "initial_hyper_params",
    "keep_within",
    "make_inner_optimizer",
    "make_objective",
    "make_train_loop",
    "make_train_step",
    "mean_length_cost",
    "multi_step_weights",
    "nesterov",
    "optax_outer",
    "outer_chain",
    "sgd",
]
