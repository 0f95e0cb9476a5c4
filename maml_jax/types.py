"""The types that every part of the framework shares, and the axis letters of all docstrings.

Axis letters:
    D devices; B tasks in a meta-batch; K maximum inner steps; S support and Q query examples;
    N ways; p the shape of one parameter leaf. A batch of anything has a leading [B].
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Array = jax.Array
PyTree = Any
Params = PyTree
Metrics = dict[str, Array]


class Examples(NamedTuple):
    """Labelled examples of one task; S stands for Q where they are query examples."""

    inputs: PyTree  # [S, *x]
    targets: PyTree  # [S] or [S, *y]


class Episode(NamedTuple):
    """One task: examples to adapt on and examples to be judged on."""

    support: Examples
    query: Examples


class MetaParams(NamedTuple):
    """Everything that meta-training may learn. A field that is not learned is held constant."""

    init: Params  # θ, the initialization: leaves [*p]
    halting: PyTree = ()  # what the gates are computed from
    learning_rates: PyTree = 1.0  # what the step sizes are computed from
    optimizer: PyTree = ()  # hyper-parameters of the inner optimizer


class Adaptation(NamedTuple):
    """What `adapt` returns for one task."""

    params: Params  # [*p], after the last step, as the loss sees them
    losses: Array  # [K], support loss before each step; carries no gradient
    gates_on: Array  # [K], share of all parameters whose gate is > 0
    monitored: PyTree  # [K+1, ...], monitor(params, k) before each step and after the last
    aux: PyTree  # [K, ...], aux of the support loss; carries no gradient
    carry: PyTree  # pass to `adapt` to go on from here


class TrainState(NamedTuple):
    """All that a run needs to go on: what a checkpoint holds."""

    step: Array  # [], meta-steps done; also the position in the stream of tasks
    meta_params: MetaParams
    outer_state: PyTree
    key: Array  # [], the run's key; constant, step and task index are folded into it
    skipped: Array  # [], meta-steps whose update was not finite and was left out
    extras: PyTree = ()  # checkpointed, not differentiated


LossFn = Callable[[Params, PyTree, Array], tuple[Array, PyTree]]  # (params, data, key) -> loss, aux
EpisodeSampler = Callable[[Array], Any]  # key -> Episode, or any (support, query) pair
