"""Schedules: which tensors the inner loop moves in which of its steps.

A gate of 0 halts a parameter, but the inner loop still computes its gradient. A schedule tells the
inner loop, before it is compiled, after which step a whole tensor has halted for good. The loop is
then cut into segments, each of which differentiates only the tensors that still move in it.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maml_jax.params import with_paths
from maml_jax.types import GateFn, Params, PyTree


class Segment(NamedTuple):
    """Consecutive inner steps that move the same tensors."""

    start: int
    num_steps: int
    moving: frozenset[str]  # paths

    def moves(self, path: str) -> bool:
        """Whether the tensor moves."""
        return path in self.moving


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How many inner steps each tensor takes part in.

    Attributes:
      last_steps: path -> number of steps after which the tensor has halted for good.

    Example:
      >>> from maml_jax.lengths import Schedule
      >>> schedule = Schedule({"body/kernel": 1, "head/kernel": 3})
      >>> for segment in schedule.segments(num_steps=5):
      ...     print(segment.start, segment.num_steps, sorted(segment.moving))
      0 1 ['body/kernel', 'head/kernel']
      1 2 ['head/kernel']
      3 2 []
    """

    last_steps: Mapping[str, int]

    def __hash__(self) -> int:
        """A hash, so that loops can be kept by their schedule."""
        return hash(frozenset(self.last_steps.items()))

    @property
    def most(self) -> int:
        """The number of steps after which nothing moves."""
        return max(self.last_steps.values(), default=0)

    def segments(self, num_steps: int, start: int = 0) -> tuple[Segment, ...]:
        """The segments of the steps from `start` on; in the last one, nothing may move."""
        end = start + num_steps
        inside = {step for step in self.last_steps.values() if start < step < end}
        cuts = [start, *sorted(inside), end]
        return tuple(
            Segment(
                first, last - first, frozenset(p for p, s in self.last_steps.items() if s > first)
            )
            for first, last in itertools.pairwise(cuts)
        )

    def check(self, adapted: Params) -> None:
        """Checks that the schedule is one of these tensors.

        Raises:
          ValueError: a tensor has no last step, or one is not of these tensors.
        """
        if (paths := set(with_paths(adapted))) != (given := set(self.last_steps)):
            wrong = min(paths ^ given)
            problem = "has no" if wrong in paths else "is unknown, but has a"
            raise ValueError(
                f"tensor {wrong!r} {problem} last step in the schedule; make it with "
                "schedule_of(gates, lengths, adapted, num_steps)"
            )


def schedule_of(gates: GateFn, lengths: PyTree, adapted: Params, num_steps: int) -> Schedule:
    """The schedule of hard gates, whose segments change nothing but the time.

    A tensor takes part in the loop until none of its parameters will move again.

    Args:
      gates: hard gates, such as `Gates.hard`, which do not depend on the parameters.
      lengths: `MetaParams.lengths`, which must not be traced.
      adapted: the adapted parameters (arrays or shapes), with None in place of the frozen ones.
      num_steps: K.

    Raises:
      ValueError: lengths are traced.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(lengths)):
        raise ValueError(
            "a schedule needs the values of the lengths, but they are traced; make it outside jit"
        )

    @jax.jit
    def on(k: jax.Array) -> dict[str, jax.Array]:
        return {path: jnp.any(gate > 0) for path, gate in with_paths(of(k)).items()}

    def of(k: jax.Array) -> PyTree:
        return gates(lengths, adapted, k)

    moves = jax.device_get(jax.lax.map(on, jnp.arange(num_steps)))
    steps = np.arange(1, num_steps + 1)
    return Schedule({path: int(np.max(steps * of, initial=0)) for path, of in moves.items()})
