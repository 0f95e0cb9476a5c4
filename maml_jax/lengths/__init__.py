"""Learned lengths: how many inner steps each parameter takes.

`gates` holds the kinds of gates and the `Gates` that the inner loop uses, `flops` counts the
compute of inner steps, and `cost` has the costs and budgets that the meta-objective adds.
"""

from maml_jax.lengths.cost import (
    Budget,
    CostFn,
    LearnedLengths,
    annealed,
    compute_cost,
    mean_length_cost,
)
from maml_jax.lengths.flops import StepCosts, count_flops, inner_compute, step_costs
from maml_jax.lengths.gates import GATES, Gate, Gates, Step, always_on, register_gate
from maml_jax.lengths.schedule import Schedule, Segment, schedule_of

__all__ = [
    "GATES",
    "Budget",
    "CostFn",
    "Gate",
    "Gates",
    "LearnedLengths",
    "Schedule",
    "Segment",
    "Step",
    "StepCosts",
    "always_on",
    "annealed",
    "compute_cost",
    "count_flops",
    "inner_compute",
    "mean_length_cost",
    "register_gate",
    "schedule_of",
    "step_costs",
]
