"""Tasks by name: the episodes, the loss and the initialization that a `RunSpec` describes."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import grain
import jax
import jax.numpy as jnp

from maml_jax.errors import UsageError
from maml_jax.models.functional import outputs_of
from maml_jax.models.losses import (
    classification_logits,
    classification_loss,
    classification_score,
    with_reference,
)
from maml_jax.models.normalization import at_step, norm_shifts_do_not_adapt, with_steps
from maml_jax.registry import Registry
from maml_jax.rl.settings import RLSettings
from maml_jax.run.messages import note
from maml_jax.run.problem import Inputs, Problem, Task, build_model, first_params
from maml_jax.run.reinforcement import reinforcement_learning
from maml_jax.settings import check_settings_class
from maml_jax.tasks import sinusoid
from maml_jax.tasks.episodes import Pool, check_pool, make_sampler, normalise
from maml_jax.tasks.host import host_episodes
from maml_jax.tasks.images.pools import load_pools
from maml_jax.types import Array, Episode, EpisodeSampler, Examples, Metrics, Params

if TYPE_CHECKING:
    from maml_jax.run.spec import RunSpec

__all__ = ["TASKS", "Inputs", "Problem", "Task", "build_model", "register_task"]

_note_once = cache(note)


def _sinusoid_regression(spec: "RunSpec") -> Problem:
    """Mean squared error of a network on sine waves."""
    model, oracle = build_model(spec, 1), spec.task.oracle
    inputs = 3 if oracle else 1

    def predict(params: Params, data: Examples) -> Array:
        return outputs_of(model, params, data.inputs)

    def score(predictions: Array, targets: Array) -> tuple[Array, Metrics]:
        return jnp.mean((predictions - targets) ** 2), {}

    def loss(params: Params, data: Examples, key: Array) -> tuple[Array, Metrics]:
        del key
        return score(predict(params, data), data.targets)

    return Problem(
        sampler=lambda shots, query_shots, stream: partial(
            sinusoid.sample_episode, num_support=shots, num_query=query_shots, oracle=oracle
        ),
        init_params=lambda key, num_steps: first_params(spec, model, key, (inputs,)),
        loss=loss,
        predict=predict,
        score=score,
        inputs=Inputs((inputs,), "float32"),
    )


def _validates(spec: "RunSpec") -> bool:
    """Whether a run needs validation episodes: to select parameters, or to tune a step size."""
    tunes = spec.entry.tunes_step_size or bool(spec.baselines)  # every baseline does
    return spec.eval.validation_every > 0 or (tunes and spec.eval.num_steps > 0)


def _checked_pools(spec: "RunSpec") -> tuple[dict[str, Pool], Inputs]:
    """Stream -> pool, each with enough classes and images for its episodes; the form of an image.

    Raises:
      UsageError: data that cannot be had, or that cannot give the episodes.
    """
    data, stream = spec.data, ""
    try:
        loaded = load_pools(data)
        pools = {"train": loaded.train, "validation": loaded.val, "test": loaded.test}
        for stream in ("train", "validation", "test") if _validates(spec) else ("train", "test"):
            sizes = spec.task if stream == "train" else spec.eval
            check_pool(
                pools[stream],
                ways=sizes.ways,
                shots=sizes.shots,
                query_shots=sizes.query_shots,
                rotation=data.rotation,
            )
    except (ValueError, OSError) as error:
        raise UsageError(f"{stream and f'{stream} classes: '}{error}") from error
    if loaded.summary:
        _note_once(loaded.summary)
    images = loaded.train.images
    shape = images.shape[2:]
    channels = shape[-1]
    form = f"images of {channels} channels" if len(shape) > 1 else f"{channels} features"
    for name, values in (("mean", data.mean), ("std", data.std)):
        if len(values) not in (0, 1, channels):
            raise UsageError(
                f"data.{name}={values} has {len(values)} values for {form}; give 1 or {channels}"
            )
    return pools, Inputs(shape, str(images.dtype), loaded.invert)


def _image_classifier(spec: "RunSpec", inputs: Inputs) -> Problem:
    """Cross-entropy of a network on N-way episodes of images, without data to draw them from."""
    data = spec.data
    model = build_model(spec, spec.task.ways)

    def prepare(raw: Episode) -> Episode:
        episode = normalise(raw, data.mean or None, data.std or None)
        return with_reference(episode) if spec.model.normalization == "support" else episode

    def sampler(shots: int, query_shots: int, stream: str) -> EpisodeSampler:
        raise UsageError("a model that was loaded without its data draws no episodes")

    def init_params(key: Array, num_steps: int) -> Params:
        return with_steps(first_params(spec, model, key, inputs.shape), num_steps)

    return Problem(
        sampler=sampler,
        init_params=init_params,
        loss=classification_loss(model),
        predict=classification_logits(model),
        score=classification_score,
        adapts=norm_shifts_do_not_adapt,
        at_step=at_step,
        prepare=prepare,
        inputs=inputs,
        ways=spec.task.ways,
        weighted=spec.model.normalization in ("none", "group"),
    )


def _image_classification(spec: "RunSpec") -> Problem:
    """The classifier, and the episodes of a data set.

    Raises:
      UsageError: data that cannot be had, or too few classes or images for the episodes.
    """
    data, rotation = spec.data, spec.data.rotation
    pools, inputs = _checked_pools(spec)
    problem = _image_classifier(spec, inputs)

    @cache
    def on_device(stream: str) -> Pool:
        with jax.ensure_compile_time_eval():  # the sampler of a population is made while tracing
            return Pool(*map(jnp.asarray, pools[stream]))

    def sampler(shots: int, query_shots: int, stream: str) -> EpisodeSampler:
        try:
            return make_sampler(
                on_device(stream),
                ways=spec.task.ways if stream == "train" else spec.eval.ways,
                shots=shots,
                query_shots=query_shots,
                rotation=rotation,
                prepare=problem.prepare,
            )
        except ValueError as error:
            raise UsageError(f"{stream} classes: {error}") from error

    def raw_episodes(key: Array, tasks: Sequence[int]) -> grain.MapDataset[Episode]:
        return host_episodes(
            pools["train"],
            key,
            tasks,
            ways=spec.task.ways,
            shots=spec.task.shots,
            query_shots=spec.task.query_shots,
            rotation=rotation,
        )

    raw = raw_episodes if data.pool == "host" else None
    return problem._replace(sampler=sampler, host_episodes=raw)


TASKS = Registry(
    "task",
    {
        "sinusoid": Task(_sinusoid_regression, unused=("data", "task.ways", "eval.ways")),
        "images": Task(
            _image_classification, unused=("task.oracle",), without_data=_image_classifier
        ),
        "rl": Task(reinforcement_learning, RLSettings, unused=("data", "task.ways", "eval.ways")),
    },
)


def register_task(
    name: str,
    build: "Callable[[RunSpec], Problem]",
    *,
    settings: type | None = None,
    figures: Mapping[str, Callable[[Any], Any]] | None = None,
    unused: tuple[str, ...] = (),
) -> None:
    """Makes `task.name=NAME` usable in configs.

    Args:
      name: of the task.
      build: RunSpec -> Problem. `maml_jax.run.problems.build_model` makes the network of the run.
      settings: a frozen dataclass of `maml_jax.settings.setting` fields. It becomes the config's
        section NAME; `spec.own[name]` is its instance.
      figures: name -> function from the report's list of runs to a matplotlib Figure.
      unused: keys and sections of a config that the task does not use, such as `data`; they are
        refused where they are set.

    Raises:
      ValueError: the name belongs to the package, or `settings` is no such class.
    """
    check_settings_class(settings)
    TASKS.register(name, Task(build, settings, figures or {}, unused))
