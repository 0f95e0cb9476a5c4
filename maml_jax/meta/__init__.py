"""Across tasks: the meta-objective, the outer step, the train step and evaluation.

`objective` holds the meta-objective of one task, `outer` how meta-parameters are updated,
`train_step` one meta-step over many tasks, `population` that of many runs at once, `evaluate` the
statistics of evaluations, and `batching` the maps and sums over tasks. `maml_jax.parallel`
distributes them over devices.
"""

from maml_jax.meta.evaluate import EpisodeCounts, Estimate, summarise
from maml_jax.meta.objective import Objective, multi_step_weights
from maml_jax.meta.outer import (
    MetaObjective,
    OuterResult,
    OuterStep,
    keep_within,
    optax_outer,
    outer_chain,
)
from maml_jax.meta.population import Population, make_population_step, member, stack
from maml_jax.meta.train_step import TrainStep, init_state

__all__ = [
    "EpisodeCounts",
    "Estimate",
    "MetaObjective",
    "Objective",
    "OuterResult",
    "OuterStep",
    "Population",
    "TrainStep",
    "init_state",
    "keep_within",
    "make_population_step",
    "member",
    "multi_step_weights",
    "optax_outer",
    "outer_chain",
    "stack",
    "summarise",
]
