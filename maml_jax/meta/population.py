"""Populations: many runs of one program, trained as one more vmapped axis.

The letter P is the number of members. They may differ in their keys and so in their tasks, in their
meta-parameters, and in numbers that the train step is made from, such as learning rates. No member
changes another one: each has its own tasks, its own guards and its own metrics.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from maml_jax.meta.batching import map_tasks
from maml_jax.meta.train_step import sum_here
from maml_jax.types import AllReduceFn, Array, Metrics, PyTree, TrainState, TrainStepFn


class Population(NamedTuple):
    """The states of P runs, and what their train steps are made from."""

    states: TrainState  # leaves [P, ...]
    values: PyTree = ()  # leaves [P, ...], of the numbers that differ; constant
    active: Array | None = None  # [P], bool: the others stay as they are; None: all are active


class PopulationStepFn(Protocol):
    """One meta-step of all members, over the tasks with these global indices [B] of each.

    Episodes that the host gathers are not supported.
    """

    def __call__(
        self,
        population: Population,
        task_indices: Array,
        all_reduce: AllReduceFn = ...,
        episodes: None = None,
        /,
    ) -> tuple[Population, Metrics]: ...


def stack(states: Sequence[PyTree]) -> PyTree:
    """Joins trees of one structure along a new leading axis [P]."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def member(population: PyTree, index: int) -> PyTree:
    """The tree of one member, without the leading axis."""
    return jax.tree.map(lambda leaf: leaf[index], population)


def make_population_step(
    make_train_step: Callable[[PyTree], TrainStepFn], *, members_per_chunk: int | None = None
) -> PopulationStepFn:
    """Makes the meta-step of a population.

    Args:
      make_train_step: (values of one member) -> train step. It is called inside a trace, where
        numbers are arrays []; a number that decides which operations there are has to be the same
        for all members, as whether gradients are clipped at all.
      members_per_chunk: how many members are computed at once, which bounds memory; None: all.

    Returns:
      step(population, task_indices) -> (population, metrics [P]), which
      `maml_jax.parallel.make_population_loop` runs on many devices.

    Example:
      >>> from functools import partial
      >>> import jax, jax.numpy as jnp, optax
      >>> from maml_jax import (
      ...     InnerLoop, MetaParams, Objective, TrainStep, init_state, optax_outer, outer_chain, sgd
      ... )
      >>> from maml_jax.meta.population import Population, make_population_step, stack
      >>> from maml_jax.parallel import make_population_loop
      >>> from maml_jax.tasks.quadratic import loss, sample_episode
      >>> objective = Objective(InnerLoop(loss, sgd, num_steps=1), loss)
      >>> sampler = partial(sample_episode, curvature=jnp.ones(2))
      >>> def make(rate):
      ...     outer = optax_outer(outer_chain({"init": optax.sgd(rate)}))
      ...     return TrainStep(sampler, objective, outer)
      >>> first, rates = MetaParams(jnp.ones(2), step_sizes=0.1), jnp.array([0.01, 0.1, 1.0])
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> states = [init_state(first, make(rate).outer, key) for rate, key in zip(rates, keys)]
      >>> step = make_population_step(make)
      >>> train = make_population_loop(step, meta_batch_size=4)
      >>> population, metrics = train(Population(stack(states), rates), 10)
      >>> metrics["loss"].shape
      (3,)
    """

    def step(
        population: Population,
        task_indices: Array,
        all_reduce: AllReduceFn = sum_here,
        episodes: None = None,
    ) -> tuple[Population, Metrics]:
        def of_member(
            state: TrainState, values: PyTree, active: Array | None
        ) -> tuple[TrainState, Metrics]:
            train_step = make_train_step(values)
            new, metrics = train_step(state, task_indices, all_reduce, episodes)
            if active is not None:
                new = jax.tree.map(lambda a, b: jnp.where(active, a, b), new, state)
            return new, metrics

        states, metrics = map_tasks(of_member, *population, chunk=members_per_chunk)
        return population._replace(states=states), metrics

    return step
