"""Devices: those of this process and, in a run on several hosts, those of all processes."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from maml_jax.errors import UsageError, first_line
from maml_jax.meta.batching import largest_divisor
from maml_jax.parallel.hosts import number_of_processes
from maml_jax.types import PyTree

AXIS = "devices"


def available_devices() -> list[jax.Device]:
    """All devices.

    Raises:
      UsageError: there is none of the kind that JAX_PLATFORMS asks for.
    """
    try:
        return list(jax.devices())
    except (AssertionError, RuntimeError) as error:  # JAX only asserts that it has found a device
        raise UsageError(
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')} names no device that JAX can use "
            f"here ({first_line(error)}); use cpu, or install JAX for this device"
        ) from error


def device_list(devices: Sequence[jax.Device] | None) -> list[jax.Device]:
    """The given devices, or all.

    Raises:
      UsageError: there are none.
    """
    chosen = available_devices() if devices is None else list(devices)
    if not chosen:
        raise UsageError("devices is empty; give at least one, or None for all")
    return chosen


def check_alive(name: str, tree: PyTree) -> None:
    """Checks that no train loop has reused the memory of a tree."""
    for leaf in jax.tree.leaves(tree):
        traced = isinstance(leaf, jax.core.Tracer)
        if isinstance(leaf, jax.Array) and not traced and leaf.is_deleted():
            raise UsageError(
                f"{name} was given to a train loop, which reuses its memory; use the state that "
                "the loop returned, or give the loop a copy: jax.tree.map(jnp.copy, state)"
            )


def use_cpu_devices(number: int) -> None:
    """Splits the CPU into devices, unless a computation has run or XLA_FLAGS set their number.

    Raises:
      UsageError: JAX_PLATFORMS asks for a kind of device that is not there.
    """
    if "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):
            cast(Any, jax.config).update("jax_num_cpu_devices", number)
    available_devices()


def cores_that_divide(tasks: int) -> int:
    """The largest number of CPU cores of this process that divides its share of the tasks."""
    return largest_divisor(tasks // number_of_processes(), len(os.sched_getaffinity(0)))


def of_this_process(devices: Sequence[jax.Device]) -> list[int]:
    """Positions of this process' own devices among those of all processes.

    Raises:
      UsageError: none of them is its own.
    """
    here = jax.process_index()
    own = [place for place, device in enumerate(devices) if device.process_index == here]
    if not own:
        raise UsageError(f"devices has none of process {here}; give every process some")
    return own


def replicated(devices: Sequence[jax.Device]) -> NamedSharding:
    """Where an array lies that every device of this process holds whole."""
    own = np.array([devices[place] for place in of_this_process(devices)])
    return NamedSharding(Mesh(own, (AXIS,)), cast(Any, PartitionSpec)())


def local_tasks(meta_batch_size: int) -> Sequence[int]:
    """The tasks of a meta-batch that the devices of this process adapt to."""
    devices = available_devices()
    share = meta_batch_size // len(devices)
    return [
        task
        for place in of_this_process(devices)
        for task in range(place * share, (place + 1) * share)
    ]
