"""Reinforcement learning as a task of a run: rollouts take the place of examples."""

import dataclasses
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp

from maml_jax.errors import UsageError
from maml_jax.params import with_paths
from maml_jax.rl.environments import Environment, check_environment
from maml_jax.rl.losses import RolloutLoss, batch_at_step
from maml_jax.rl.policy import Gaussian, Policy
from maml_jax.rl.registry import ENVIRONMENTS
from maml_jax.rl.rollouts import ToRollOut
from maml_jax.rl.settings import RLSettings
from maml_jax.rl.surrogates import SURROGATES, clipped, lvc
from maml_jax.run.problem import Inputs, Problem, build_model
from maml_jax.types import Array, Episode, EpisodeSampler, Examples, Params

if TYPE_CHECKING:
    from maml_jax.run.spec import RunSpec


def environment_of(spec: "RunSpec") -> tuple[Environment, int]:
    """The environment of a run, and its horizon.

    Raises:
      UsageError: it cannot be made, or its functions cannot be used.
    """
    settings: RLSettings = spec.own["rl"]
    environment = ENVIRONMENTS.find(settings.environment)()
    horizon = environment.horizon if settings.horizon < 0 else settings.horizon
    check_environment(environment, settings.environment, horizon)
    return environment, horizon


def _observation_size(spec: "RunSpec", environment: Environment) -> int:
    """The inputs of the policy; an oracle also sees the numbers of the task."""
    if not spec.task.oracle:
        return environment.observation_size
    task = jax.eval_shape(environment.sample_task, jax.random.key(0))
    return environment.observation_size + sum(leaf.size for leaf in with_paths(task).values())


def reinforcement_learning(spec: "RunSpec") -> Problem:
    """The return of a policy, with `task.shots` rollouts for each inner step.

    Raises:
      UsageError: the environment or the network cannot be used.
    """
    settings: RLSettings = spec.own["rl"]
    if spec.model.normalization != "none":
        raise UsageError(
            f"model.normalization={spec.model.normalization!r} would make an action depend on "
            "other rollouts; use 'none'"
        )
    environment, horizon = environment_of(spec)
    policy = Policy(
        build_model(spec, environment.action_size),
        environment.discrete,
        settings.initial_log_std,
        settings.min_log_std,
    )
    loss = RolloutLoss(
        environment,
        policy,
        SURROGATES.find(settings.estimator),
        horizon=horizon,
        discount=settings.discount,
        gae_lambda=settings.gae_lambda,
        with_task=spec.task.oracle,
    )
    inputs = _observation_size(spec, environment)

    def sampler(shots: int, query_shots: int, stream: str) -> EpisodeSampler:
        def sample(key: Array) -> Episode:
            task = environment.sample_task(key)
            parts = (ToRollOut(task, jnp.arange(number)) for number in (shots, query_shots))
            return Episode(*cast(Any, parts))

        return sample

    def predict(params: Params, data: Examples) -> Array:
        acts = policy(params, data.inputs)
        return acts.mean if isinstance(acts, Gaussian) else acts.logits

    return Problem(
        sampler=sampler,
        init_params=lambda key, num_steps: policy.init(key, jnp.zeros(inputs)),
        loss=loss,
        query_loss=dataclasses.replace(
            loss, surrogate=clipped(settings.clip) if settings.clip else lvc
        ),
        predict=predict,
        inputs=Inputs((inputs,), "float32"),
        support_at=batch_at_step,
        record=True,
        diverged=float("inf"),  # returns are bounded, and none may be left out of a mean
    )
