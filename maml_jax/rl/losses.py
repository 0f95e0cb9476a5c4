"""Losses that make their own data by rollouts, or take recorded ones."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from maml_jax.rl.environments import Environment
from maml_jax.rl.policy import Policy
from maml_jax.rl.rollouts import ToRollOut, Trajectories, advantages, roll_out
from maml_jax.rl.surrogates import Surrogate, lvc
from maml_jax.types import Array, Made, Params


class Batch(NamedTuple):
    """Recorded trajectories, and what does not change while they are optimized on."""

    trajectories: Trajectories  # [N, H, ...]
    advantages: Array  # [N, H]


def batch_at_step(support: ToRollOut | Batch, k: Array) -> ToRollOut | Batch:
    """The batch of inner step k, of recorded ones [K, N, H, ...]; a task is that of all steps."""
    if isinstance(support, ToRollOut):
        return support
    at_step: Batch = jax.tree.map(lambda leaf: leaf[k], support)
    return at_step


@dataclasses.dataclass(frozen=True, eq=False)
class RolloutLoss:
    """Minus the mean return of a policy, as (params, data, key) -> (loss [], Made).

    Of a `ToRollOut` it makes trajectories under params. Of a `Batch`, which an earlier call made,
    it uses the recorded ones. Its value is minus their mean return plus the surrogate per step,
    which is 0 for the policy that acted; its derivatives are those of the surrogate.

    Attributes:
      environment: the environment.
      policy: the policy.
      surrogate: an entry of `maml_jax.rl.surrogates.SURROGATES`, or a function like these.
      horizon: H; None takes that of the environment.
      discount: γ of the advantages.
      gae_lambda: λ of the advantages.
      with_task: whether the policy sees the task.
    """

    environment: Environment
    policy: Policy
    surrogate: Surrogate = lvc
    _: dataclasses.KW_ONLY
    horizon: int | None = None
    discount: float = 0.99
    gae_lambda: float = 1.0
    with_task: bool = False

    def make(self, params: Params, data: ToRollOut, key: Array) -> Batch:
        """Rolls out a task."""
        trajectories = roll_out(
            self.environment, self.policy, params, data, key,
            horizon=self.horizon, with_task=self.with_task,
        )  # fmt: skip
        of = advantages(trajectories, discount=self.discount, gae_lambda=self.gae_lambda)
        return Batch(trajectories, of)

    def __call__(self, params: Params, data: ToRollOut | Batch, key: Array) -> tuple[Array, Made]:
        """The loss; its metrics are the return, the length, the entropy and, recorded, the KL."""
        live = isinstance(data, ToRollOut)
        batch = self.make(params, data, key) if isinstance(data, ToRollOut) else data
        trajectories, mask = batch.trajectories, batch.trajectories.mask
        now = self.policy(params, trajectories.observations)
        before = trajectories.acted.log_prob(trajectories.actions)
        log_ratios = (now.log_prob(trajectories.actions) - before) * mask
        number = jnp.sum(mask)
        gain = jnp.sum(self.surrogate(log_ratios, batch.advantages) * mask) / number
        returned = jnp.mean(trajectories.returns)
        metrics = {
            "return": returned,
            "length": jnp.mean(jnp.sum(mask, 1)),
            "entropy": jnp.sum(now.entropy() * mask) / number,
        }
        if not live:
            divergence: Array = trajectories.acted.kl(now)  # type: ignore[arg-type]
            metrics["kl"] = jnp.sum(divergence * mask) / number
        return -returned - gain, Made(batch, metrics)
