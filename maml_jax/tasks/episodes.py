"""Few-shot episodes from a pool of labelled images: key -> indices -> images.

The indices alone are random. They are integers made from the key by integer arithmetic, so that a
pool on the device and a pool on the host give the same episode bit for bit.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import grain
import jax
import jax.numpy as jnp
import numpy as np

from maml_jax.meta.tasks import task_keys
from maml_jax.types import Array, Episode, EpisodeSampler, Examples, PyTree

ROTATIONS = ("none", "per_class", "new_classes")
_TURNS = 4
_MAX_STEPS = 2**31 - 1  # the step counter of a TrainState is int32


class Pool(NamedTuple):
    """Images by class, on the device (jax arrays) or on the host (numpy, possibly memory-mapped).

    Ragged classes are padded with zeros, which are never drawn.
    """

    images: Any  # uint8 [classes, images, H, W, C]
    counts: Any  # int32 [classes], how many images each class really has


class EpisodeIndices(NamedTuple):
    """What defines one episode of N ways: M = shots + query_shots images of each class."""

    classes: Any  # int32 [N]
    images: Any  # int32 [N, M], support first
    rotations: Any  # int32 [N], counter-clockwise quarter turns


def _draw_distinct(bits: Array, limit: Array) -> Array:
    """int32 [m], ordered draws without replacement from range(limit), from uint32 bits [m].

    Draw i picks one of the limit − i numbers that are left (a Lehmer code); undoing the ranks from
    the last draw to the first costs O(m²) on vectors of length m, whatever the limit: a shuffle or
    a top-k over all classes is 2 to 30 times slower on a CPU.
    """
    chex.assert_rank(bits, 1)
    size = bits.shape[0]
    order = jnp.arange(size, dtype=jnp.int32)
    # 2^32 mod limit favours small remainders by limit / 2^32: 3e-7 for a thousand classes.
    ranks = (bits % (limit - order).astype(jnp.uint32)).astype(jnp.int32)

    def undo(draws: Array, i: Array) -> tuple[Array, None]:
        return jnp.where((order > i) & (draws >= draws[i]), draws + 1, draws), None

    return jax.lax.scan(undo, ranks, order[::-1], unroll=min(size, 32))[0]


def sample_indices(
    key: Array,
    counts: Array,
    *,
    ways: int,
    shots: int,
    query_shots: int,
    rotation: str = "none",
) -> EpisodeIndices:
    """Draws the classes, images and rotations of one episode, without replacement.

    Args:
      key: [], a typed PRNG key.
      counts: int32 [classes], images that each class has.
      ways: N, classes in an episode; their order, hence the labels, is random too.
      shots: support images of a class.
      query_shots: query images of a class.
      rotation: `none`; `per_class`, one of 0, 90, 180, 270 degrees drawn per class and episode;
        `new_classes`, every class at each of the four rotations is a class of its own.

    Returns:
      EpisodeIndices with int32 classes [N], images [N, shots + query_shots], rotations [N].

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from maml_jax.tasks.episodes import sample_indices
      >>> counts = jnp.full(100, 20)
      >>> drawn = sample_indices(jax.random.key(0), counts, ways=5, shots=1, query_shots=2)
      >>> drawn.classes.shape, drawn.images.shape, drawn.rotations.shape
      ((5,), (5, 3), (5,))
    """
    chex.assert_rank(counts, 1)
    number, each = counts.shape[0], shots + query_shots
    # One draw of bits per episode: a threefry call costs more than all that follows.
    bits = jax.random.bits(key, (ways * (each + 2),))
    class_bits, image_bits, turn_bits = jnp.split(bits, (ways, ways * (each + 1)))
    rotations = (turn_bits % _TURNS).astype(jnp.int32)
    if rotation == "new_classes":
        rotated = _draw_distinct(class_bits, jnp.int32(number * _TURNS))
        classes, rotations = rotated % number, rotated // number
    else:
        classes = _draw_distinct(class_bits, jnp.int32(number))
        rotations = rotations * (rotation == "per_class")
    images = jax.vmap(_draw_distinct)(image_bits.reshape(ways, each), counts[classes])
    return EpisodeIndices(classes, images, rotations)


def rotate(images: Any, rotations: Any) -> Any:
    """Turns images [..., N, M, H, H, C] counter-clockwise by rotations [..., N] quarter turns.

    Two selects, of the half turn and of the quarter turn, on numpy or jax arrays.
    """
    xp: Any = np if isinstance(images, np.ndarray) else jnp
    turns = rotations[..., None, None, None, None]
    axes = (-3, -2)
    images = xp.where(turns >= 2, xp.flip(images, axes), images)
    return xp.where(turns % 2 == 1, xp.rot90(images, axes=axes), images)


def gather(pool: Pool, indices: EpisodeIndices, *, shots: int, rotation: str = "none") -> Episode:
    """The uint8 episode (or batch of episodes) at these indices, by numpy or jax as the pool is.

    Args:
      pool: of numpy or jax arrays.
      indices: from `sample_indices`; a batch has a leading [B].
      shots: how many of the M images of a class are support images.
      rotation: as in `sample_indices`; `none` skips the arithmetic.

    Returns:
      An Episode of inputs uint8 [S, H, W, C] and targets int32 [S], S = N·shots and class-major;
      Q = N·(M − shots) likewise.
    """
    where = (indices.classes[..., None], indices.images)
    if isinstance(pool.images, np.ndarray):
        images = np.asarray(pool.images[where])
    else:
        images = pool.images.at[where].get(mode="promise_in_bounds")
    if rotation != "none":
        images = rotate(images, indices.rotations)

    def examples(images: Any) -> Examples:
        *batch, ways, each = images.shape[:-3]
        xp: Any = np if isinstance(images, np.ndarray) else jnp
        labels = xp.repeat(xp.arange(ways, dtype=xp.int32), each)
        return Examples(
            images.reshape(*batch, ways * each, *images.shape[-3:]),
            xp.broadcast_to(labels, (*batch, ways * each)),
        )

    return Episode(examples(images[..., :shots, :, :, :]), examples(images[..., shots:, :, :, :]))


def normalise(
    episode: Episode, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Episode:
    """Turns uint8 inputs into float32: x/255, then (x − mean)/std per channel where given.

    Raises:
      ValueError: mean or std has neither one value nor one for each channel.
    """

    channels = episode.support.inputs.shape[-1]

    def per_channel(values: Sequence[float], rank: int) -> Array:
        array = jnp.asarray(values, jnp.float32)
        if array.size not in (1, channels):
            raise ValueError(f"mean or std has {array.size} values for {channels} channels")
        return array.reshape((1,) * (rank - 1) + (-1,))

    def scale(examples: Examples) -> Examples:
        inputs = examples.inputs.astype(jnp.float32) / 255
        if mean is not None:
            inputs = inputs - per_channel(mean, inputs.ndim)
        if std is not None:
            inputs = inputs / per_channel(std, inputs.ndim)
        return examples._replace(inputs=inputs)

    return Episode(scale(episode.support), scale(episode.query))


def check_pool(pool: Pool, *, ways: int, shots: int, query_shots: int, rotation: str) -> None:
    """Says at start what could not be drawn later.

    Raises:
      ValueError: unknown rotation, ways or shots below 1, or too few classes or images for them.
    """
    counts = np.asarray(pool.counts)
    chex.assert_rank(pool.images, 5)
    chex.assert_shape(counts, (pool.images.shape[0],))
    if rotation not in ROTATIONS:
        raise ValueError(f"rotation={rotation!r} is unknown; choose from {', '.join(ROTATIONS)}")
    if min(ways, shots, query_shots) < 1:
        raise ValueError(f"{ways=}, {shots=}, {query_shots=}: each must be 1 or more")
    classes = len(counts) * (_TURNS if rotation == "new_classes" else 1)
    if ways > classes:
        raise ValueError(f"ways={ways} but the pool has {classes} classes; use fewer ways")
    needed = shots + query_shots
    if np.any(counts < needed):
        raise ValueError(
            f"shots={shots} + query_shots={query_shots} need {needed} images of each class, but "
            f"{np.sum(counts < needed)} of {len(counts)} classes have fewer (the smallest "
            f"{counts.min()}); use fewer shots, or leave those classes out with min_images={needed}"
        )
    height, width = pool.images.shape[2:4]
    if rotation != "none" and height != width:
        raise ValueError(f"rotation={rotation!r} needs square images, not {height}x{width}")


def make_sampler(
    pool: Pool,
    *,
    ways: int,
    shots: int,
    query_shots: int,
    rotation: str = "none",
    prepare: Callable[[Episode], Episode] = normalise,
) -> EpisodeSampler:
    """key -> Episode, drawn on the device that holds the pool.

    Args:
      pool: moved to the device if it is not there.
      ways: N, classes in an episode.
      shots: support images of a class.
      query_shots: query images of a class.
      rotation: `none`, `per_class` or `new_classes`, see `sample_indices`.
      prepare: uint8 Episode -> Episode; bind mean and std of `normalise` where wanted.

    Returns:
      A pure function of the key, for use under jit and vmap, that gives inputs float32
      [S, H, W, C] and targets int32 [S].

    Raises:
      ValueError: the pool has too few classes or images, see `check_pool`.

    Example:
      >>> import jax, numpy as np
      >>> from maml_jax.tasks.episodes import Pool, make_sampler
      >>> pool = Pool(np.zeros((10, 20, 28, 28, 1), np.uint8), np.full(10, 20, np.int32))
      >>> sample_episode = make_sampler(pool, ways=5, shots=1, query_shots=3)
      >>> sample_episode(jax.random.key(0)).query.inputs.shape
      (15, 28, 28, 1)
    """
    check_pool(pool, ways=ways, shots=shots, query_shots=query_shots, rotation=rotation)
    pool = Pool(jnp.asarray(pool.images), jnp.asarray(pool.counts))

    def sample_episode(key: Array) -> Episode:
        indices = sample_indices(
            key,
            pool.counts,
            ways=ways,
            shots=shots,
            query_shots=query_shots,
            rotation=rotation,
        )
        return prepare(gather(pool, indices, shots=shots, rotation=rotation))

    return sample_episode


class _HostMetaBatches:
    """Random access from a meta-step to its meta-batch, as grain wants its sources."""

    def __init__(
        self,
        pool: Pool,
        key: Array,
        task_indices: Sequence[int],
        shots: int,
        rotation: str,
        **sizes: int,
    ) -> None:
        # Drawn on the CPU: an accelerator would queue the draw behind the training in flight.
        cpu = jax.local_devices(backend="cpu")[0]
        key, counts, tasks = jax.device_put((key, pool.counts, np.asarray(task_indices)), cpu)
        self._pool, self._shots, self._rotation = pool, shots, rotation

        def draw(step: Array) -> EpisodeIndices:
            def of_task(task_key: Array) -> EpisodeIndices:
                episode_key, _ = jax.random.split(task_key)  # as in a meta-step
                return sample_indices(episode_key, counts, shots=shots, rotation=rotation, **sizes)

            return jax.vmap(of_task)(task_keys(key, step, tasks))

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
    """Meta-batches from a pool that stays on the host, indexed by meta-step.

    Element t holds the very episodes that a meta-step t with this key draws by `make_sampler` for
    these tasks, so a run resumes from its step number alone: `dataset[t:].to_iter_dataset()`.

    Args:
      pool: of numpy arrays, possibly memory-mapped.
      key: [], the key of the TrainState.
      task_indices: global indices [B] of the tasks wanted here.
      ways: N, classes in an episode.
      shots: support images of a class.
      query_shots: query images of a class.
      rotation: `none`, `per_class` or `new_classes`, see `sample_indices`.

    Returns:
      A grain.MapDataset of Episodes with inputs uint8 [B, S, H, W, C] and targets int32 [B, S];
      `normalise` turns them into what the device sampler gives.

    Raises:
      ValueError: the pool has too few classes or images, see `check_pool`.
    """
    check_pool(pool, ways=ways, shots=shots, query_shots=query_shots, rotation=rotation)
    pool = Pool(np.asanyarray(pool.images), np.asarray(pool.counts))
    return grain.MapDataset.source(
        _HostMetaBatches(
            pool, key, task_indices, shots, rotation, ways=ways, query_shots=query_shots
        )
    )


class HostFeed:
    """Meta-batches from the host in the order of meta-steps, gathered ahead by grain's threads."""

    def __init__(self, dataset: grain.MapDataset) -> None:
        """The dataset is indexed by meta-step: any step can be the first."""
        self._dataset = dataset
        self._next = -1

    def __call__(self, step: int, number: int) -> PyTree:
        """Episodes [number, B, ...] of the meta-steps from `step` on."""
        if step != self._next:
            self._iterator = iter(self._dataset[step:].to_iter_dataset())
        self._next = step + number
        episodes = [next(self._iterator) for _ in range(number)]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *episodes)
