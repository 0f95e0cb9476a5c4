"""The train loop on many devices."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from maml_jax.checks import check_count, describe
from maml_jax.errors import UsageError
from maml_jax.meta.batching import largest_divisor
from maml_jax.meta.population import Population, PopulationStepFn
from maml_jax.meta.train_step import COUNTS, sum_here
from maml_jax.parallel.devices import (
    AXIS,
    check_alive,
    device_list,
    of_this_process,
    replicated,
)
from maml_jax.types import Array, Metrics, PyTree, TrainLoop, TrainState, TrainStepFn


class PopulationLoop(Protocol):
    """Runs a number of meta-steps of all members; see `make_population_loop`."""

    def __call__(self, population: Population, num_steps: int, /) -> tuple[Population, Metrics]: ...


def _check_state(state: object, kind: type[TrainState | Population], name: str) -> None:
    if not isinstance(state, kind):
        raise TypeError(f"{name} is {describe(state)}; use {name}, metrics = train({name}, n)")
    check_alive(name, state)


def _check_episodes(episodes: PyTree, axes: tuple[int, int]) -> None:
    for leaf in jax.tree.leaves(episodes):
        if np.shape(leaf)[:2] != axes:
            raise UsageError(
                f"episodes have an array of shape {np.shape(leaf)}; its first axes must be "
                f"[num_steps, meta_batch_size] = {list(axes)}"
            )


def make_train_loop(
    train_step: TrainStepFn,
    *,
    meta_batch_size: int,
    devices: Sequence[jax.Device] | None = None,
) -> TrainLoop:
    """Makes a loop that runs n meta-steps in one dispatch and splits meta-batches over devices.

    Args:
      train_step: see `maml_jax.meta.train_step.TrainStep`.
      meta_batch_size: B, the number of tasks in a meta-batch over all devices.
      devices: the D devices; None uses all available ones, of all processes.

    Returns:
      loop(state, n, episodes=None) -> (state, metrics). Episodes [n, B, ...] come from the host, or
      the sampler draws them; of several processes, each gives those of its own devices. Metrics are
      means over the n steps without those that are NaN, except for counts, which are sums. Results
      do not depend on D or on how steps are grouped into dispatches. The state that is passed in is
      donated: it cannot be used again.

    Raises:
      UsageError: B is not a multiple of D, or not positive.
    """
    devices = device_list(devices)
    meta_batch_size = check_count("meta_batch_size", meta_batch_size)
    if meta_batch_size % len(devices):
        raise UsageError(
            f"meta_batch_size={meta_batch_size} does not divide over {len(devices)} devices; "
            f"use a multiple of {len(devices)}"
        )
    task_indices = _task_indices(meta_batch_size, devices)
    dispatch = _make_dispatch(partial(_split_tasks, train_step), devices)

    def split(leaf: np.ndarray) -> np.ndarray:  # [n, B, ...] -> [D, n, B / D, ...]
        return np.moveaxis(leaf.reshape(len(leaf), *task_indices.shape, *leaf.shape[2:]), 1, 0)

    def loop(
        state: TrainState, num_steps: int, episodes: PyTree = None
    ) -> tuple[TrainState, Metrics]:
        num_steps = check_count("num_steps", num_steps)
        _check_state(state, TrainState, "state")
        _check_episodes(episodes, (num_steps, task_indices.size))
        result: tuple[TrainState, Metrics] = dispatch(
            state, task_indices, jax.tree.map(split, episodes), num_steps
        )
        return result

    return loop


def make_population_loop(
    train_step: PopulationStepFn,
    *,
    meta_batch_size: int,
    devices: Sequence[jax.Device] | None = None,
) -> PopulationLoop:
    """Makes the loop of a population; see `make_train_loop`.

    The members are split over the devices or, if this uses more of them, the tasks of all members.
    Results do not depend on it.

    Args:
      train_step: see `maml_jax.meta.population.make_population_step`.
      meta_batch_size: B, the number of tasks in the meta-batch of one member over all devices.
      devices: the devices, of which as many are used as divide P or B; None takes all available
        ones. Of several processes, all devices have to be used.

    Returns:
      loop(population, n) -> (population, metrics [P]); the population is donated.
    """
    devices = device_list(devices)
    meta_batch_size = check_count("meta_batch_size", meta_batch_size)

    @cache
    def loop_of(members: int) -> Callable[[Population, int], tuple[Population, Metrics]]:
        most = len(devices)
        of_members, of_tasks = (largest_divisor(n, most) for n in (members, meta_batch_size))
        used = devices[: max(of_members, of_tasks)]
        if len(used) < most and len(of_this_process(devices)) < most:
            raise UsageError(
                f"neither {members} members nor meta_batch_size={meta_batch_size} divide over the "
                f"{most} devices of all processes; use multiples"
            )
        run: Callable[..., Any] = _split_tasks
        tasks = _task_indices(meta_batch_size, used[:of_tasks])
        if of_members >= of_tasks:
            run = _split_members
            tasks = np.tile(np.arange(meta_batch_size), (len(of_this_process(used)), 1))
        dispatch = _make_dispatch(partial(run, train_step), used)
        return lambda population, num_steps: dispatch(population, tasks, None, num_steps)

    def loop(population: Population, num_steps: int) -> tuple[Population, Metrics]:
        num_steps = check_count("num_steps", num_steps)
        _check_state(population, Population, "population")
        return loop_of(len(population.states.step))(population, num_steps)

    return loop


def _task_indices(meta_batch_size: int, devices: Sequence[jax.Device]) -> np.ndarray:
    """The tasks of this process' devices, [D, B / D]."""
    return np.arange(meta_batch_size).reshape(len(devices), -1)[of_this_process(devices)]


def _make_dispatch(run: Callable[..., Any], devices: Sequence[jax.Device]) -> Callable[..., Any]:
    """Runs (state, task indices [D, b], episodes [D, n, b, ...], n) -> (state, metrics)."""
    mapped = jax.pmap(
        run,
        AXIS,
        in_axes=(None, 0, 0, None),
        out_axes=None,
        static_broadcasted_argnums=3,
        devices=devices,
        donate_argnums=0,
    )
    # If a fresh state differed from one that a dispatch returned, the loop would compile twice.
    held = replicated(devices)
    return lambda state, *others: mapped(jax.device_put(state, held), *others)


def _split_tasks(
    train_step: Any, state: PyTree, task_indices: Array, episodes: PyTree, num_steps: int
) -> tuple[PyTree, Metrics]:
    """Trains on this device's share of the tasks."""
    all_reduce = partial(jax.lax.psum, axis_name=AXIS)
    return _scan(train_step, state, task_indices, all_reduce, episodes, num_steps)


def _split_members(
    train_step: Any, population: Population, task_indices: Array, episodes: None, num_steps: int
) -> tuple[Population, Metrics]:
    """Trains this device's share of the members, and gathers all of them."""
    share = len(population.states.step) // jax.lax.axis_size(AXIS)
    first = share * jax.lax.axis_index(AXIS)
    own = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, share), population)
    own, metrics = _scan(train_step, own, task_indices, sum_here, episodes, num_steps)
    own_states = own.states._replace(key=())  # a key cannot be gathered, and is constant
    states, metrics = jax.lax.all_gather((own_states, metrics), AXIS, tiled=True)
    states = states._replace(key=population.states.key)
    return population._replace(states=states), metrics


def _scan(
    train_step: Any, state: PyTree, task_indices: Array, all_reduce: Any, episodes: PyTree, n: int
) -> tuple[PyTree, Metrics]:
    """Runs n meta-steps, and reduces their metrics."""

    def body(state: PyTree, episodes: PyTree) -> tuple[PyTree, Metrics]:
        after: tuple[PyTree, Metrics] = train_step(state, task_indices, all_reduce, episodes)
        return after

    state, metrics = jax.lax.scan(body, state, episodes, length=n)
    return state, {
        name: jnp.sum(value, axis=0) if name in COUNTS else jnp.nanmean(value, axis=0)
        for name, value in metrics.items()
    }
