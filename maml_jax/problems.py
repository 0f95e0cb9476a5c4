"""What a config's task and model amount to: episodes, a loss and an initialization."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

import jax.numpy as jnp
from ml_collections import ConfigDict

from maml_jax.models.mlp import MLP
from maml_jax.tasks import sinusoid
from maml_jax.types import Array, EpisodeSampler, Examples, LossFn, Params


class Problem(NamedTuple):
    """A family of tasks and a network for it."""

    sampler: Callable[[int, int], EpisodeSampler]  # (S, Q) -> episode sampler
    init_params: Callable[[Array], Params]
    loss_fn: LossFn  # (params, Examples, key) -> loss, dict of metrics
    predict: Callable[[Params, Array], Array]


def sinusoid_regression(config: ConfigDict) -> Problem:
    """Mean squared error of an MLP on sine waves."""
    model = MLP(tuple(config.model.hidden), 1, config.model.kernel_init)
    inputs = 3 if config.task.oracle else 1

    def predict(params: Params, x: Array) -> Array:
        return cast(Array, model.apply({"params": params}, x))

    def loss_fn(params: Params, data: Examples, key: Array) -> tuple[Array, dict[str, Array]]:
        del key
        return jnp.mean((predict(params, data.inputs) - data.targets) ** 2), {}

    return Problem(
        sampler=lambda shots, query_shots, stream: partial(
            sinusoid.sample_episode,
            num_support=shots,
            num_query=query_shots,
            oracle=config.task.oracle,
        ),
        init_params=lambda key: model.init(key, jnp.zeros((1, inputs)))["params"],
        loss_fn=loss_fn,
        predict=predict,
    )


PROBLEMS: dict[str, Callable[[ConfigDict], Problem]] = {"sinusoid": sinusoid_regression}
