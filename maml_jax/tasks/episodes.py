"""Few-shot episodes from a pool of labelled images or features: key -> indices -> examples.

Only the indices are random. They are computed from the key by integer arithmetic, so that a pool on
the device and a pool on the host give the same episode bit for bit.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from maml_jax.types import Array, Episode, EpisodeSampler, Examples

ROTATIONS = ("none", "per_class", "new_classes")
_TURNS = 4

AnyArray = np.ndarray | jax.Array


class Pool(NamedTuple):
    """Images by class, on the device (jax arrays) or on the host (numpy, possibly memory-mapped).

    Classes with fewer images than others are padded with zeros, which are never drawn. Features
    may take the place of images.
    """

    images: AnyArray  # uint8 [classes, images, H, W, C], or float32 [classes, images, d]
    counts: AnyArray  # int32 [classes], images of each class without padding


class EpisodeIndices(NamedTuple):
    """What defines one episode of N ways: M = shots + query_shots images of each class."""

    classes: AnyArray  # int32 [N]
    images: AnyArray  # int32 [N, M], support first
    rotations: AnyArray  # int32 [N], counter-clockwise quarter turns


def _draw_distinct(bits: Array, limit: Array) -> Array:
    """Draws int32 [m] from range(limit) without replacement, in order, from uint32 bits [m].

    Draw i picks one of the limit − i numbers that are left (a Lehmer code). Decoding the ranks from
    the last draw to the first costs O(m²) for any limit. On a CPU, a shuffle or a top-k over all
    classes is 2 to 30 times slower.
    """
    chex.assert_rank(bits, 1)
    size = bits.shape[0]
    order = jnp.arange(size, dtype=jnp.int32)
    # The remainder favours small numbers by limit / 2^32, which is 3e-7 for a thousand classes.
    ranks = (bits % (limit - order).astype(jnp.uint32)).astype(jnp.int32)

    def decode(draws: Array, i: Array) -> tuple[Array, None]:
        return jnp.where((order > i) & (draws >= draws[i]), draws + 1, draws), None

    return jax.lax.scan(decode, ranks, order[::-1], unroll=min(size, 32))[0]


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
      counts: int32 [classes], the images of each class.
      ways: N, classes in an episode; their order, and hence their labels, are random too.
      shots: support images of each class.
      query_shots: query images of each class.
      rotation: `none`; `per_class` draws 0, 90, 180 or 270 degrees for each class of the episode;
        `new_classes` treats each class at each of the four rotations as a class of its own.

    Returns:
      EpisodeIndices with int32 classes [N], images [N, shots + query_shots] and rotations [N].

    Raises:
      ValueError: a size or the rotation is not allowed, or there are fewer classes than ways.

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
    _check_sizes(number, ways=ways, shots=shots, query_shots=query_shots, rotation=rotation)
    # One draw of bits per episode: a threefry call costs more than everything that follows.
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


def _check_sizes(classes: int, *, ways: int, shots: int, query_shots: int, rotation: str) -> None:
    if rotation not in ROTATIONS:
        raise ValueError(f"rotation={rotation!r} is unknown; choose from {', '.join(ROTATIONS)}")
    if min(ways, shots, query_shots) < 1:
        raise ValueError(f"{ways=}, {shots=}, {query_shots=}: each must be 1 or more")
    classes *= _TURNS if rotation == "new_classes" else 1
    if ways > classes:
        raise ValueError(
            f"ways={ways} but the pool has {classes} classes; use fewer ways (task.ways and "
            "eval.ways), or give the pool a larger share of the classes (data.split_fractions)"
        )


def rotate(images: AnyArray, rotations: AnyArray) -> AnyArray:
    """Turns images [..., N, M, H, H, C] counter-clockwise by rotations [..., N] quarter turns.

    It selects the half turn and then the quarter turn, on numpy or jax arrays.
    """
    xp = np if isinstance(images, np.ndarray) else jnp
    turns = rotations[..., None, None, None, None]
    axes = (-3, -2)
    turned: AnyArray = xp.where(turns >= 2, xp.flip(images, axes), images)
    turned = xp.where(turns % 2 == 1, xp.rot90(turned, axes=axes), turned)
    return turned


def gather(pool: Pool, indices: EpisodeIndices, *, shots: int, rotation: str = "none") -> Episode:
    """Gathers the episode, or batch of episodes, of raw examples at these indices.

    Args:
      pool: numpy or jax arrays, which determine the arrays of the episode.
      indices: from `sample_indices`; a batch has a leading [B].
      shots: how many of the M images of each class are support images.
      rotation: as in `sample_indices`; `none` skips the arithmetic.

    Returns:
      An Episode of inputs uint8 [S, H, W, C], or float32 [S, d], and targets int32 [S] in the order
      of classes, with S = N·shots and Q = N·(M − shots).
    """
    where = (indices.classes[..., None], indices.images)
    images: AnyArray
    if isinstance(pool.images, np.ndarray):
        images = np.asarray(pool.images[where])
    else:
        images = pool.images.at[where].get(mode="promise_in_bounds")
    if rotation != "none":
        images = rotate(images, indices.rotations)
    rank = pool.images.ndim - 2  # of one example

    def examples(which: slice) -> Examples:
        where: Any = (..., which, *[slice(None)] * rank)
        chosen: AnyArray = images[where]
        *batch, ways, each = chosen.shape[:-rank]
        labels = np.repeat(np.arange(ways, dtype=np.int32), each)  # known while tracing
        return Examples(
            chosen.reshape(*batch, ways * each, *chosen.shape[-rank:]),
            np.broadcast_to(labels, (*batch, ways * each)),
        )

    return Episode(examples(slice(shots)), examples(slice(shots, None)))


def normalise(
    episode: Episode, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Episode:
    """Turns inputs into float32: x/255 if they are uint8, then (x − mean)/std per channel if given.

    The channels of features [S, d] are the d features.

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
        inputs = examples.inputs.astype(jnp.float32)
        if examples.inputs.dtype == jnp.uint8:
            inputs = inputs / 255
        if mean is not None:
            inputs = inputs - per_channel(mean, inputs.ndim)
        if std is not None:
            inputs = inputs / per_channel(std, inputs.ndim)
        return examples._replace(inputs=inputs)

    return Episode(scale(episode.support), scale(episode.query))


def check_pool(pool: Pool, *, ways: int, shots: int, query_shots: int, rotation: str) -> None:
    """Checks before the first draw that a pool can give the episodes.

    Raises:
      TypeError: the images are not uint8 (features: not float32), or the counts are not integers.
      ValueError: their shapes are wrong, the rotation is unknown, ways or shots are below 1, or the
        pool has too few classes or images for them.
    """
    shape, counts = pool.images.shape, np.asarray(pool.counts)
    features = pool.images.dtype == np.float32 and len(shape) == 3
    known = features or pool.images.dtype == np.uint8
    if not known or not np.issubdtype(counts.dtype, np.integer):
        raise TypeError(
            f"pool.images has dtype {pool.images.dtype} and pool.counts {counts.dtype}; give uint8 "
            "pixels of 0 to 255, or features float32 [classes, examples, d], and integers (for "
            "other data, write a sampler: key -> Episode)"
        )
    if len(shape) != (3 if features else 5) or 0 in shape[1:] or counts.shape != shape[:1]:
        raise ValueError(
            f"pool.images has shape {list(shape)} and pool.counts {list(counts.shape)}; give "
            "images [classes, images, H, W, C] and counts [classes]"
        )
    if counts.size and not 0 <= counts.min() <= counts.max() <= shape[1]:
        raise ValueError(
            f"pool.counts go from {counts.min()} to {counts.max()}; use 0 to {shape[1]}, the "
            "number of images that each class has room for"
        )
    _check_sizes(len(counts), ways=ways, shots=shots, query_shots=query_shots, rotation=rotation)
    needed = shots + query_shots
    if np.any(counts < needed):
        raise ValueError(
            f"shots={shots} + query_shots={query_shots} need {needed} images of each class, but "
            f"{np.sum(counts < needed)} of {len(counts)} classes have fewer (the smallest "
            f"{counts.min()}); use fewer shots and query_shots (task.* in training, eval.* in "
            f"evaluation), or leave these classes out with data.min_images={needed}"
        )
    if rotation != "none" and (features or shape[2] != shape[3]):
        form = "features" if features else f"{shape[2]}x{shape[3]}"
        raise ValueError(f"rotation={rotation!r} needs square images, not {form}")


def make_sampler(
    pool: Pool,
    *,
    ways: int,
    shots: int,
    query_shots: int,
    rotation: str = "none",
    prepare: Callable[[Episode], Episode] = normalise,
) -> EpisodeSampler:
    """Makes a sampler that draws episodes on the device that holds the pool.

    Args:
      pool: moved to the device if it is not there.
      ways: N, classes in an episode.
      shots: support images of each class.
      query_shots: query images of each class.
      rotation: `none`, `per_class` or `new_classes`; see `sample_indices`.
      prepare: raw Episode -> Episode; use `partial(normalise, mean=..., std=...)` to standardize.

    Returns:
      A pure function of the key, for use under jit and vmap, that returns an Episode with inputs
      float32 [S, H, W, C] or [S, d] and targets int32 [S].

    Raises:
      TypeError, ValueError: the pool cannot give such episodes; see `check_pool`.

    Example:
      >>> import jax, numpy as np
      >>> from maml_jax.tasks.episodes import Pool, make_sampler
      >>> pool = Pool(np.zeros((10, 20, 28, 28, 1), np.uint8), np.full(10, 20, np.int32))
      >>> sample_episode = make_sampler(pool, ways=5, shots=1, query_shots=3)
      >>> sample_episode(jax.random.key(0)).query.inputs.shape
      (15, 28, 28, 1)
    """
    check_pool(pool, ways=ways, shots=shots, query_shots=query_shots, rotation=rotation)
    counts = jnp.asarray(pool.counts)
    pool = Pool(jnp.asarray(pool.images), counts)

    def sample_episode(key: Array) -> Episode:
        indices = sample_indices(
            key,
            counts,
            ways=ways,
            shots=shots,
            query_shots=query_shots,
            rotation=rotation,
        )
        return prepare(gather(pool, indices, shots=shots, rotation=rotation))

    return sample_episode
