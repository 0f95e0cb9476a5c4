"""The train loop on many devices."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from maml_jax.checks import check_count, describe
from maml_jax.errors import UsageError
from maml_jax.meta.population import Population, PopulationStepFn
from maml_jax.meta.train_step import COUNTS
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

    def __call__(
        self, population: Population, num_steps: int, episodes: PyTree = None, /
    ) -> tuple[Population, Metrics]: ...


def _check_call(
    state: object, kind: type[TrainState | Population], episodes: PyTree, axes: tuple[int, int]
) -> None:
    if not isinstance(state, kind):
        name = "population" if kind is Population else "state"
        raise TypeError(f"{name} is {describe(state)}; use {name}, metrics = train({name}, n)")
    check_alive("state", state)
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
    loop: TrainLoop = _make_loop(train_step, TrainState, meta_batch_size, devices)
    return loop


def make_population_loop(
    train_step: PopulationStepFn,
    *,
    meta_batch_size: int,
    devices: Sequence[jax.Device] | None = None,
) -> PopulationLoop:
    """Makes the loop of a population; see `make_train_loop`.

    Args:
      train_step: see `maml_jax.meta.population.make_population_step`.
      meta_batch_size: B, the number of tasks in the meta-batch of one member over all devices.
      devices: the D devices; None uses all available ones, of all processes.

    Returns:
      loop(population, n, episodes=None) -> (population, metrics [P]). All members get the same
      episodes if they are given, and each draws its own if they are not.
    """
    loop: PopulationLoop = _make_loop(train_step, Population, meta_batch_size, devices)
    return loop


def _make_loop(
    train_step: Any,
    kind: type[TrainState | Population],
    meta_batch_size: int,
    devices: Sequence[jax.Device] | None,
) -> Any:
    devices = device_list(devices)
    meta_batch_size = check_count("meta_batch_size", meta_batch_size)
    if meta_batch_size % len(devices):
        raise UsageError(
            f"meta_batch_size={meta_batch_size} does not divide over {len(devices)} devices; "
            f"use a multiple of {len(devices)}"
        )
    every_task = np.arange(meta_batch_size).reshape(len(devices), -1)
    task_indices = every_task[of_this_process(devices)]  # [D of this process, B / D]
    all_reduce = partial(jax.lax.psum, axis_name=AXIS)

    def run(
        state: PyTree, task_indices: Array, episodes: PyTree, num_steps: int
    ) -> tuple[PyTree, Metrics]:
        def body(state: PyTree, episodes: PyTree) -> tuple[PyTree, Metrics]:
            after: tuple[PyTree, Metrics] = train_step(state, task_indices, all_reduce, episodes)
            return after

        state, metrics = jax.lax.scan(body, state, episodes, length=num_steps)
        reduced = {
            name: jnp.sum(value, axis=0) if name in COUNTS else jnp.nanmean(value, axis=0)
            for name, value in metrics.items()
        }
        return state, reduced

    dispatch = jax.pmap(
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

    def split(leaf: np.ndarray) -> np.ndarray:  # [n, B, ...] -> [D, n, B / D, ...]
        return np.moveaxis(leaf.reshape(len(leaf), *task_indices.shape, *leaf.shape[2:]), 1, 0)

    def loop(state: PyTree, num_steps: int, episodes: PyTree = None) -> tuple[PyTree, Metrics]:
        num_steps = check_count("num_steps", num_steps)
        _check_call(state, kind, episodes, (num_steps, task_indices.size))
        state = jax.device_put(state, held)
        result: tuple[PyTree, Metrics] = dispatch(
            state, task_indices, jax.tree.map(split, episodes), num_steps
        )
        return result

    return loop
