"""Types and protocols that all parts of the library share, and the axis letters of docstrings.

Axis letters:
    D devices; B tasks in a meta-batch; K maximum inner steps; S support and Q query examples;
    N ways; p the shape of one parameter leaf. A batch of anything has a leading [B].
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import optax

Array = jax.Array
PyTree = Any
Params = PyTree
Metrics = dict[str, Array]


class Examples(NamedTuple):
    """Labelled examples of one task; S stands for Q where they are query examples."""

    inputs: PyTree  # [S, *x]
    targets: PyTree  # [S] or [S, *y]


class WeightedExamples(NamedTuple):
    """Examples of which some count less, as in padded tasks; see `maml_jax.tasks.padding`."""

    inputs: PyTree  # [S, *x]
    targets: PyTree  # [S] or [S, *y]
    weights: Array  # [S], of the examples in a mean


class Episode(NamedTuple):
    """One task: examples to adapt on and examples to evaluate on."""

    support: Examples
    query: Examples


class MetaParams(NamedTuple):
    """Everything that meta-training may learn. A field that is not learned is held constant."""

    init: Params  # θ, the initialization: leaves [*p]
    lengths: PyTree = ()  # what the gates are computed from
    step_sizes: PyTree = ()  # what the step sizes α are computed from
    optimizer: PyTree = ()  # hyper-parameters of the inner optimizer


class Adaptation(NamedTuple):
    """The result of the inner loop for one task."""

    params: Params  # [*p], after the last step, as the loss sees them
    losses: Array  # [K], support loss before each step; carries no gradient
    gates_on: Array  # [K], share of all parameters whose gate is > 0
    monitored: PyTree  # [K+1, ...], monitor(params, k) before each step and after the last
    aux: PyTree  # [K, ...], aux of the support loss; carries no gradient
    carry: PyTree  # pass it to the inner loop to continue from here


class TrainState(NamedTuple):
    """Everything that a run needs to continue: the content of a checkpoint."""

    step: Array  # [], meta-steps done; also the position in the stream of tasks
    meta_params: MetaParams
    outer_state: PyTree
    key: Array  # [], the run's key; constant, step and task index are folded into it
    skipped: Array  # [], meta-steps whose update was not finite and was left out
    extras: PyTree = ()  # checkpointed, not differentiated


class Made(NamedTuple):
    """The aux of a loss that makes its own data, as reinforcement learning does by rollouts.

    Given the data, the loss uses them instead of making others: see `Objective.record`.
    """

    data: PyTree
    metrics: Metrics


class LossFn(Protocol):
    """The loss of one task, support or query.

    It returns (loss [], aux). A dict aux is reported as metrics: it may be nested, and its leaves
    are numbers or arrays. The data may be any pytree, and the loss may generate its own data from
    the parameters and the key; aux can then be `Made`.
    """

    def __call__(self, params: Params, data: PyTree, key: Array, /) -> tuple[Array, PyTree]: ...


class EpisodeSampler(Protocol):
    """Draws one task: key [] -> (support, query), an `Episode` or any such pair of pytrees."""

    def __call__(self, key: Array, /) -> Any: ...


class GateFn(Protocol):
    """Gates m_k in [0, 1] of an inner step.

    Maps (meta_params.lengths, params, k []) to a tree like params whose leaves broadcast to it.
    """

    def __call__(self, lengths: PyTree, params: Params, k: Array, /) -> PyTree: ...


class StepSizeFn(Protocol):
    """Step sizes α_k of an inner step.

    Maps (meta_params.step_sizes, params, k []) to a tree like params whose leaves broadcast to it.
    """

    def __call__(self, step_sizes: PyTree, params: Params, k: Array, /) -> PyTree: ...


class MakeOptimizer(Protocol):
    """Makes the inner optimizer from `meta_params.optimizer`.

    The result is an optax transform that returns directions: the inner loop multiplies
    them by −α·gate.
    """

    def __call__(self, hyper_params: PyTree, /) -> optax.GradientTransformation: ...


class PathPredicate(Protocol):
    """Selects parameters by their path, such as "layer/kernel"."""

    def __call__(self, path: str, /) -> bool: ...


class Monitor(Protocol):
    """Evaluated before each inner step k and after the last one; its result carries gradients."""

    def __call__(self, params: Params, k: Array, /) -> PyTree: ...


class AtStepFn(Protocol):
    """The parameters that the loss sees at inner step k, of params that may hold a row per step."""

    def __call__(self, params: Params, k: Array, /) -> Params: ...


class SupportAtFn(Protocol):
    """The support data of inner step k, of data that may hold a row per step."""

    def __call__(self, support: PyTree, k: Array, /) -> PyTree: ...


class AdaptFn(Protocol):
    """Adapts to one task; `maml_jax.inner.adapt.InnerLoop` is one."""

    def __call__(
        self, meta_params: MetaParams, support: PyTree, key: Array, /, *, monitor: Monitor
    ) -> Adaptation: ...


class ObjectiveFn(Protocol):
    """The meta-objective of one task at a meta-step; `maml_jax.meta.objective.Objective` is one.

    Returns (loss [], (metrics, extras)).
    """

    def __call__(
        self, meta_params: MetaParams, episode: Any, key: Array, step: Array, extras: PyTree, /
    ) -> tuple[Array, tuple[Metrics, PyTree]]: ...


class AllReduceFn(Protocol):
    """Sums every leaf over the devices."""

    def __call__(self, tree: PyTree, /) -> PyTree: ...


class TrainStepFn(Protocol):
    """One meta-step over the tasks with these global indices [B], or over given episodes [B, ...].

    `maml_jax.meta.train_step.TrainStep` is one.
    """

    def __call__(
        self, state: TrainState, task_indices: Array, all_reduce: AllReduceFn, episodes: PyTree, /
    ) -> tuple[TrainState, Metrics]: ...


class TrainLoop(Protocol):
    """Runs a number of meta-steps; see `maml_jax.parallel.make_train_loop`."""

    def __call__(
        self, state: TrainState, num_steps: int, episodes: PyTree = None, /
    ) -> tuple[TrainState, Metrics]: ...


class StepWeightsFn(Protocol):
    """Maps a meta-step [] to the weights [K] of the query losses after each inner step."""

    def __call__(self, step: Array, /) -> Array: ...


class HostEpisodes(Protocol):
    """Meta-batches that the host gathers, indexed by meta-step: (key, task indices) -> dataset."""

    def __call__(self, key: Array, tasks: Sequence[int], /) -> Any: ...
