"""A small navigation problem, and what every test of rollouts needs."""

from typing import Any

import jax
import jax.numpy as jnp

from maml_jax import InnerLoop, MetaParams, Objective
from maml_jax.models.mlp import MLP
from maml_jax.rl import (
    SURROGATES,
    Navigation,
    Policy,
    RolloutLoss,
    ToRollOut,
    batch_at_step,
)
from maml_jax.types import Array

ROLLOUTS = 4
ENVIRONMENT = Navigation(horizon=6)
POLICY = Policy(MLP((5,), 2, "xavier"), initial_log_std=-0.5)
KEY = jax.random.key(0)


def make_loss(surrogate: str = "dice", **options: Any) -> RolloutLoss:
    return RolloutLoss(ENVIRONMENT, POLICY, SURROGATES[surrogate], **options)


def first_params(key: Array = KEY) -> Any:
    """Away from the kinks of ReLU, which meet at observation 0 with zero biases."""
    params = POLICY.init(key, jnp.zeros(2))
    return jax.tree.map(lambda p: p + 0.1 * jax.random.normal(key, p.shape), params)


def fresh_meta_params() -> MetaParams:
    params = first_params()
    return MetaParams(params, step_sizes=jax.tree.map(lambda p: jnp.full(p.shape, 0.5), params))


def sample(key: Array) -> tuple[ToRollOut, ToRollOut]:
    data = ToRollOut(ENVIRONMENT.sample_task(key), jnp.arange(ROLLOUTS))
    return data, data


def make_objective(surrogate: str = "dice", steps: int = 2, **options: Any) -> Objective:
    loop = InnerLoop(make_loss(surrogate), num_steps=steps, support_at=batch_at_step, **options)
    return Objective(loop, make_loss("lvc"))
