"""What a config's task, data and model amount to: episodes, a loss and an initialization."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple, cast

import flax.linen as nn
import grain
import jax.numpy as jnp
from ml_collections import ConfigDict

from maml_jax.errors import UsageError
from maml_jax.inner.adapt import AdaptsFn, everything, same_at_every_step
from maml_jax.models.conv4 import Conv4
from maml_jax.models.losses import classification_logits, classification_loss, with_reference
from maml_jax.models.mlp import MLP
from maml_jax.models.normalization import at_step, norm_shifts_do_not_adapt, with_steps
from maml_jax.models.resnet12 import ResNet12
from maml_jax.tasks import sinusoid
from maml_jax.tasks.episodes import Pool, check_pool, host_episodes, make_sampler, normalise
from maml_jax.tasks.images import Pools, load_pools
from maml_jax.types import Array, Episode, EpisodeSampler, Examples, LossFn, Params

HostEpisodes = Callable[[Array, Sequence[int]], grain.MapDataset]


class Problem(NamedTuple):
    """A family of tasks and a network for it."""

    sampler: Callable[[int, int, str], EpisodeSampler]  # (shots, query_shots, stream) -> sampler
    init_params: Callable[[Array, int], Params]  # (key, K) -> θ
    loss_fn: LossFn  # (params, Examples, key) -> loss, dict of metrics
    predict: Callable[[Params, Examples], Array]  # [S, y]
    adapts: AdaptsFn = everything
    at_step: Callable[[Params, Array], Params] = same_at_every_step
    host_episodes: HostEpisodes | None = None  # (key, tasks) -> raw meta-batches by meta-step
    prepare: Callable[[Any], Episode] = lambda episode: episode  # raw -> Episode, on the device


def sinusoid_regression(config: ConfigDict) -> Problem:
    """Mean squared error of an MLP on sine waves."""
    model = MLP(tuple(config.model.hidden), 1, config.model.kernel_init)
    inputs = 3 if config.task.oracle else 1

    def predict(params: Params, data: Examples) -> Array:
        return cast(Array, model.apply({"params": params}, data.inputs))

    def loss_fn(params: Params, data: Examples, key: Array) -> tuple[Array, dict[str, Array]]:
        del key
        return jnp.mean((predict(params, data) - data.targets) ** 2), {}

    return Problem(
        sampler=lambda shots, query_shots, stream: partial(
            sinusoid.sample_episode,
            num_support=shots,
            num_query=query_shots,
            oracle=config.task.oracle,
        ),
        init_params=lambda key, num_steps: model.init(key, jnp.zeros((1, inputs)))["params"],
        loss_fn=loss_fn,
        predict=predict,
    )


def _classifier(config: ConfigDict) -> nn.Module:
    model, ways = config.model, config.task.ways
    if model.name == "mlp":
        kind = None if model.normalization == "none" else model.normalization
        return MLP(tuple(model.hidden), ways, model.kernel_init, kind, flatten=True)
    convolution = None if model.convolution == "auto" else model.convolution
    if model.name == "resnet12":
        return ResNet12(
            ways,
            widths=tuple(model.widths),
            normalization=model.normalization,
            convolution=convolution,
        )
    return Conv4(
        ways,
        filters=model.filters,
        max_pool=model.max_pool,
        normalization=model.normalization,
        head_init=None if model.head_init == "auto" else model.head_init,
        convolution=convolution,
    )


def _load(config: ConfigDict) -> Pools:
    data = config.data
    return load_pools(
        data.name,
        split=data.split or None,
        seed=data.split_seed,
        split_fractions=data.split_fractions,
        image_size=data.image_size or None,
        channels=data.channels or None,
        invert={"auto": None, "yes": True, "no": False}[data.invert],
        min_images=data.min_images,
        data_dir=data.dir or None,
        splits_dir=data.splits_dir or None,
        cache_dir=data.cache_dir or None,
    )


def _load_checked(config: ConfigDict) -> dict[str, Pool]:
    """Stream -> pool, each with enough classes and images for its episodes.

    Raises:
      UsageError: data that cannot be had, or that cannot give the episodes.
    """
    data, stream = config.data, ""
    try:
        train, validation, test, _ = _load(config)
        pools = {"train": train, "validation": validation, "test": test}
        for stream, pool in pools.items():
            sizes = config.task if stream == "train" else config.eval
            check_pool(
                pool,
                ways=config.task.ways,
                shots=sizes.shots,
                query_shots=sizes.query_shots,
                rotation=data.rotation,
            )
    except (ValueError, OSError) as error:
        raise UsageError(f"{stream and f'{stream} classes: '}{error}") from error
    channels = train.images.shape[-1]
    for name in ("mean", "std"):
        if len(data[name]) not in (0, 1, channels):
            raise UsageError(
                f"data.{name}={data[name]} has {len(data[name])} values for images of {channels} "
                f"channels; give 1 or {channels}"
            )
    return pools


def image_classification(config: ConfigDict) -> Problem:
    """Cross-entropy of a network on N-way episodes of a data set.

    Raises:
      UsageError: data that cannot be had, or too few classes or images for the episodes.
    """
    model, data, ways = _classifier(config), config.data, config.task.ways
    normalization = config.model.normalization

    def prepare(raw: Episode) -> Episode:
        episode = normalise(raw, data.mean or None, data.std or None)
        return with_reference(episode) if normalization == "support" else episode

    pools = _load_checked(config)
    images = pools["train"].images

    @cache
    def on_device(stream: str) -> Pool:
        return Pool(*map(jnp.asarray, pools[stream]))

    def sampler(shots: int, query_shots: int, stream: str) -> EpisodeSampler:
        return make_sampler(
            on_device(stream),
            ways=ways,
            shots=shots,
            query_shots=query_shots,
            rotation=data.rotation,
            prepare=prepare,
        )

    def init_params(key: Array, num_steps: int) -> Params:
        params = model.init(key, jnp.zeros((1, *images.shape[2:])))["params"]
        return with_steps(params, num_steps)

    def raw_episodes(key: Array, tasks: Sequence[int]) -> grain.MapDataset:
        return host_episodes(
            pools["train"],
            key,
            tasks,
            ways=ways,
            shots=config.task.shots,
            query_shots=config.task.query_shots,
            rotation=data.rotation,
        )

    return Problem(
        sampler=sampler,
        init_params=init_params,
        loss_fn=classification_loss(model),
        predict=classification_logits(model),
        adapts=norm_shifts_do_not_adapt,
        at_step=at_step,
        host_episodes=raw_episodes if data.pool == "host" else None,
        prepare=prepare,
    )


PROBLEMS: dict[str, Callable[[ConfigDict], Problem]] = {
    "sinusoid": sinusoid_regression,
    "images": image_classification,
}
