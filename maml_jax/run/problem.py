"""What a task of a run consists of: episodes, loss and initialization."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax.numpy as jnp

from maml_jax.errors import UsageError
from maml_jax.meta.evaluate import DIVERGED
from maml_jax.meta.train_step import same_episode
from maml_jax.models.functional import Network, initial_params, takes_reference
from maml_jax.models.registry import MODELS
from maml_jax.params import everything, same_at_every_step
from maml_jax.types import (
    Array,
    AtStepFn,
    EpisodeSampler,
    Examples,
    HostEpisodes,
    LossFn,
    Metrics,
    Params,
    PathPredicate,
    SupportAtFn,
)

if TYPE_CHECKING:
    from maml_jax.run.spec import RunSpec


class MakeSampler(Protocol):
    """Makes the sampler of a stream, with so many support and query examples (of a class)."""

    def __call__(self, shots: int, query_shots: int, stream: str, /) -> EpisodeSampler: ...


class InitParams(Protocol):
    """(key, number of inner steps K) -> initial parameters θ."""

    def __call__(self, key: Array, num_steps: int, /) -> Params: ...


class PredictFn(Protocol):
    """(params, examples) -> predictions [S, y]."""

    def __call__(self, params: Params, examples: Examples, /) -> Array: ...


class ScoreFn(Protocol):
    """(predictions [S, y], targets [S] or [S, y]) -> (loss [], metrics)."""

    def __call__(self, predictions: Array, targets: Array, /) -> tuple[Array, Metrics]: ...


class Inputs(NamedTuple):
    """What a network takes: with it, a trained network can be used without the data of its run."""

    shape: tuple[int, ...]  # [*x], of one example
    dtype: str  # of what the network's `prepare` takes
    invert: bool = False  # whether pixels of image files become 255 - pixel

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Inputs":
        """Reads what JSON has made of it."""
        return cls(tuple(record["shape"]), record["dtype"], record["invert"])


class Problem(NamedTuple):
    """A family of tasks and a network for it."""

    sampler: MakeSampler
    init_params: InitParams
    loss: LossFn  # with a dict of metrics as aux
    predict: PredictFn
    adapts: PathPredicate = everything
    at_step: AtStepFn = same_at_every_step
    host_episodes: HostEpisodes | None = None  # raw meta-batches by meta-step
    prepare: Callable[[Any], Any] = same_episode  # raw -> Episode, on the device
    inputs: Inputs | None = None  # of the network; None takes the form of the sampler's
    ways: int = 0  # classes that are the outputs of `predict`; 0 if these are values
    score: ScoreFn | None = None  # of predictions, as in `loss`; None if they are not averaged
    weighted: bool = False  # whether the loss of WeightedExamples is that of those that count
    query_loss: LossFn | None = None  # None: the loss of support and query examples is the same
    support_at: SupportAtFn = same_at_every_step
    record: bool = False  # whether the losses make their own data, which are recorded for training
    diverged: float = DIVERGED  # an episode diverges if its loss rises by this factor


class Task(NamedTuple):
    """An entry of `TASKS`."""

    build: "Callable[[RunSpec], Problem]"
    settings: type | None = None  # a settings class of its own, the config's section NAME
    figures: Mapping[str, Callable[[Any], Any]] = {}  # of the report: name -> (runs -> Figure)
    unused: tuple[str, ...] = ()  # keys and sections of a config that have no effect on it
    without_data: "Callable[[RunSpec, Inputs], Problem] | None" = None  # None: `build` has no data


def build_model(spec: "RunSpec", outputs: int) -> Network:
    """The network that a run's settings describe.

    Raises:
      UsageError: the normalization needs a network that takes `num_reference`.
    """
    name = spec.model.name
    model = MODELS.find(name).build(spec.own_settings(name, spec.model), outputs)
    if spec.model.normalization == "support" and not takes_reference(model):
        raise UsageError(
            f"model.normalization='support' hands the network num_reference, which {name!r} does "
            "not take; add it (docs/own_model.md), or use another normalization"
        )
    return model


def first_params(spec: "RunSpec", model: Network, key: Array, shape: tuple[int, ...]) -> Params:
    """The parameters of the run's network for inputs [*shape]."""
    try:
        return initial_params(model, key, jnp.zeros((1, *shape)))
    except ValueError as error:
        raise UsageError(f"model.name={spec.model.name!r}: {error}") from error
