"""Several processes, usually on several hosts, that train one run together.

All processes execute the same program on the same inputs; only the tasks of a meta-batch differ.
The first process is the writer: its files are those of the run.
"""

import itertools
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed  # what jax.process_index() says, before devices are chosen
from jax.experimental import multihost_utils

from maml_jax.errors import UsageError, first_line

T = TypeVar("T")
_START_SECONDS = 45  # for all processes to come up
_ALIVE_SECONDS = 30  # after which a process that has ended is noticed
_WAIT_SECONDS = 3_600  # for what the writer shares, as long as it lives
_MOST_BYTES = 2**20  # of a message
_numbers = itertools.count()  # of values that were shared; the same in all processes


def start(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Joins the other processes; call it before anything is computed.

    Without arguments, JAX asks the cluster: SLURM, Open MPI, Kubernetes or a TPU pod. A process
    whose partners end or do not come up is aborted within a minute.

    Args:
      coordinator: HOST:PORT of the first process, where it is to listen.
      processes: their number.
      process: the index of this one, from 0.

    Raises:
      UsageError: there is no cluster, or the arguments are incomplete or not allowed.
    """
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            initialization_timeout=_START_SECONDS,
            heartbeat_timeout_seconds=_ALIVE_SECONDS,
            shutdown_timeout_seconds=_WAIT_SECONDS,
        )
    except (RuntimeError, TypeError, ValueError) as error:
        raise UsageError(
            f"the processes of the run cannot be joined ({first_line(error)}); start it under "
            "SLURM, Open MPI, Kubernetes or on a TPU pod, or say where to find them: "
            "--coordinator=HOST:PORT --processes=N --process=INDEX"
        ) from error
    if "JAX_CPU_COLLECTIVES_IMPLEMENTATION" not in os.environ:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")


def number_of_processes() -> int:
    """How many processes train together; 1 unless they were joined by `start`."""
    return distributed.global_state.num_processes


def is_writer() -> bool:
    """Whether this process writes the files of the run: the first one."""
    return distributed.global_state.process_id == 0


def shared(make: Callable[[], T]) -> T:
    """What `make` returns in the writer, in all processes; it has to be picklable."""
    if number_of_processes() == 1:
        return make()
    client: Any = distributed.global_state.client
    name = f"maml_jax/{next(_numbers)}"
    if is_writer():
        value = make()
        parts = list(_parts(pickle.dumps(value)))
        for index, part in enumerate(parts):
            client.key_value_set_bytes(f"{name}/{index}", part)
        client.key_value_set_bytes(f"{name}/number", str(len(parts)).encode())
        return value

    def get(key: str) -> bytes:
        data: bytes = client.blocking_key_value_get_bytes(f"{name}/{key}", 1_000 * _WAIT_SECONDS)
        return data

    of_writer: T = pickle.loads(b"".join(get(str(index)) for index in range(int(get("number")))))
    return of_writer


def _parts(data: bytes) -> Iterator[bytes]:
    for first in range(0, len(data), _MOST_BYTES):
        yield data[first : first + _MOST_BYTES]


def wait_for_writer() -> None:
    """Returns when the writer calls it as well; others would end the run if they left before."""
    shared(lambda: None)


def keep_stdout() -> None:
    """Sends what C libraries such as Gloo print to stderr; stdout is for Python alone."""
    before = sys.stdout
    before.flush()
    sys.stdout = open(  # noqa: SIM115, for as long as the process lives
        os.dup(1), "w", encoding=before.encoding, errors=before.errors, buffering=1
    )
    os.dup2(2, 1)


def in_any_process(flag: bool) -> bool:
    """Whether a flag is set in at least one process; all processes have to ask."""
    if number_of_processes() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))
