"""Reinforcement learning: environments, policies, rollouts, surrogates and outer steps.

A loss that makes its own data by rollouts takes the place of a loss of examples. The inner loop,
the meta-objective, the train loop and the evaluation are those of all tasks.
"""

from maml_jax.rl.environments import Environment, Step, check_environment
from maml_jax.rl.losses import Batch, RolloutLoss, batch_at_step
from maml_jax.rl.navigation import Navigation
from maml_jax.rl.policy import Categorical, Gaussian, Policy
from maml_jax.rl.registry import ENVIRONMENTS, register_environment
from maml_jax.rl.rollouts import ToRollOut, Trajectories, roll_out
from maml_jax.rl.surrogates import SURROGATES, clipped
from maml_jax.rl.trpo import trpo

__all__ = [
    "ENVIRONMENTS",
    "SURROGATES",
    "Batch",
    "Categorical",
    "Environment",
    "Gaussian",
    "Navigation",
    "Policy",
    "RolloutLoss",
    "Step",
    "ToRollOut",
    "Trajectories",
    "batch_at_step",
    "check_environment",
    "clipped",
    "register_environment",
    "roll_out",
    "trpo",
]
