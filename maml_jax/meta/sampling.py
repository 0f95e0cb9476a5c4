"""Checks of samplers: what does not come from the key is traced once and then repeated forever."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.interpreters.partial_eval import dce_jaxpr

from maml_jax.checks import is_array_like
from maml_jax.types import Array, EpisodeSampler, PyTree


def _constants(closed: ClosedJaxpr | Jaxpr) -> Iterator[Any]:
    """The values in a traced function that do not depend on its arguments."""
    yield from getattr(closed, "consts", ())
    jaxpr = getattr(closed, "jaxpr", closed)
    atoms = [atom for equation in jaxpr.eqns for atom in equation.invars] + jaxpr.outvars
    yield from (atom.val for atom in atoms if isinstance(atom, Literal))
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if isinstance(inner, ClosedJaxpr | Jaxpr):
                    yield from _constants(inner)


def _may_be_equal(a: Any, b: Any) -> bool:
    """Whether two constants are the same; values that cannot be looked at count as such."""
    hidden = isinstance(a, jax.core.Tracer) or jnp.issubdtype(
        getattr(a, "dtype", np.float32), jax.dtypes.extended
    )
    return a is b or hidden or np.array_equal(a, b, equal_nan=True)


def _trace(fn: Callable[..., PyTree], args: tuple[Any, ...]) -> ClosedJaxpr:
    # The two traces of a jitted function would be one.
    plain = cast(Any, fn).__wrapped__ if isinstance(fn, jax.stages.Wrapped) else fn

    def arrays(*args: Any) -> list[Any]:
        return [leaf for leaf in jax.tree.leaves(plain(*args)) if is_array_like(leaf)]

    return jax.make_jaxpr(arrays)(*(jax.ShapeDtypeStruct(of.shape, of.dtype) for of in args))


def _same(first: ClosedJaxpr, second: ClosedJaxpr) -> bool:
    constants, again = list(_constants(first)), list(_constants(second))
    return len(constants) == len(again) and all(map(_may_be_equal, constants, again))


def same_constants(fn: Callable[..., PyTree], *args: Array) -> bool:
    """Whether two traces of a function have the same constants, as those of a pure one do."""
    return _same(_trace(fn, args), _trace(fn, args))


def check_sampler(sample_episode: EpisodeSampler, key: Array) -> None:
    """Checks that the randomness of a sampler comes from its key, by tracing it twice.

    It warns if the episode does not depend on the key at all.

    Args:
      sample_episode: key -> (support, query).
      key: a key like those that it receives.

    Raises:
      ValueError: the two traces have different constants, such as numbers from numpy.
    """
    first, second = _trace(sample_episode, (key,)), _trace(sample_episode, (key,))
    if not _same(first, second):
        raise ValueError(
            "sample_episode draws numbers that do not come from its key, and tracing would repeat "
            "them forever; draw all of them with jax.random and the key, or let the host draw "
            "episodes and give them to the train loop: train(state, n, episodes)"
        )
    depends = any(dce_jaxpr(first.jaxpr, True)[1]) or first.effects
    if first.out_avals and not depends:
        warnings.warn(
            "sample_episode does not depend on its key: all tasks have the same episode",
            stacklevel=2,
        )
