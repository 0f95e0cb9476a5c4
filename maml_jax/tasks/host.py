"""Episodes from a pool that stays in host memory, fed to the meta-steps in their order."""

from collections.abc import Sequence

import grain
import jax
import numpy as np

from maml_jax import keys
from maml_jax.tasks.episodes import EpisodeIndices, Pool, check_pool, gather, sample_indices
from maml_jax.types import Array, Episode, PyTree

_MAX_STEPS = 2**31 - 1  # The step counter of a TrainState is int32.


class _HostMetaBatches:
    """Random access from a meta-step to its meta-batch, the interface of grain's sources."""

    def __init__(
        self,
        pool: Pool,
        key: Array,
        task_indices: Sequence[int],
        shots: int,
        rotation: str,
        **sizes: int,
    ) -> None:
        # Indices are drawn on the CPU: an accelerator would queue them behind the training.
        cpu = jax.local_devices(backend="cpu")[0]
        key, counts, tasks = jax.device_put((key, pool.counts, np.asarray(task_indices)), cpu)
        self._pool, self._shots, self._rotation = pool, shots, rotation

        def draw(step: Array) -> EpisodeIndices:
            def of_task(task_key: Array) -> EpisodeIndices:
                episode_key, _ = keys.split_task_key(task_key)
                return sample_indices(episode_key, counts, shots=shots, rotation=rotation, **sizes)

            return jax.vmap(of_task)(keys.task_keys(key, step, tasks))

        self._draw = jax.jit(draw)
        self._device = cpu

    def __len__(self) -> int:
        return _MAX_STEPS

    def __getitem__(self, step: int) -> Episode:
        indices = self._draw(jax.device_put(np.int32(step), self._device))
        indices = EpisodeIndices(*map(np.asarray, indices))
        return gather(self._pool, indices, shots=self._shots, rotation=self._rotation)


def host_episodes(
    pool: Pool,
    key: Array,
    task_indices: Sequence[int],
    *,
    ways: int,
    shots: int,
    query_shots: int,
    rotation: str = "none",
) -> grain.MapDataset[Episode]:
    """Makes meta-batches from a pool on the host, indexed by meta-step.

    Element t holds the same episodes that a meta-step t with this key draws by `make_sampler` for
    these tasks. A run therefore resumes from its step number: `dataset[t:].to_iter_dataset()`.

    Args:
      pool: numpy arrays, possibly memory-mapped.
      key: [], the key of the TrainState.
      task_indices: global indices [B] of the tasks.
      ways: N, classes in an episode.
      shots: support images of each class.
      query_shots: query images of each class.
      rotation: `none`, `per_class` or `new_classes`; see `sample_indices`.

    Returns:
      A grain.MapDataset of Episodes with inputs uint8 [B, S, H, W, C] and targets int32 [B, S].
      `normalise` turns them into the episodes of the device sampler.

    Raises:
      TypeError, ValueError: the pool cannot give such episodes; see `check_pool`.
    """
    check_pool(pool, ways=ways, shots=shots, query_shots=query_shots, rotation=rotation)
    pool = Pool(np.asanyarray(pool.images), np.asarray(pool.counts))
    return grain.MapDataset.source(
        _HostMetaBatches(
            pool, key, task_indices, shots, rotation, ways=ways, query_shots=query_shots
        )
    )


class HostFeed:
    """Meta-batches from the host in the order of meta-steps, gathered in advance by threads."""

    def __init__(self, dataset: grain.MapDataset[Episode]) -> None:
        """Takes a dataset indexed by meta-step; any meta-step can be the first."""
        self._dataset = dataset
        self._next = -1

    def __call__(self, step: int, number: int) -> PyTree:
        """Returns the episodes [number, B, ...] of `number` meta-steps from `step` on."""
        if step != self._next:
            self._iterator = iter(self._dataset[step:].to_iter_dataset())
        self._next = step + number
        episodes = [next(self._iterator) for _ in range(number)]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *episodes)
