"""Chebyshev methods: step sizes for a fixed number of steps, and the semi-iteration."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from maml_jax.inner.optimizers.tree_math import add, check_numbers, check_static, scale
from maml_jax.settings import Rule, at_least, positive
from maml_jax.types import Array, Params, PyTree


def _check_spectrum(smallest: Array | float, largest: Array | float) -> None:
    check_numbers(positive(), smallest=smallest, largest=largest)
    if isinstance(smallest, (int, float)):
        rule = Rule(lambda bound: bound >= smallest, lambda: f"smallest={smallest} or more")
        check_numbers(rule, largest=largest)


def _leja_order(nodes: np.ndarray) -> np.ndarray:
    """Leja's order: each node has the largest product of distances to the nodes before it.

    With step sizes in this order, all partial products of (1 − α_k h) stay moderate.
    """
    order, score = [int(np.argmax(np.abs(nodes)))], np.zeros(len(nodes))
    while len(order) < len(nodes):
        with np.errstate(divide="ignore"):  # a node in the order has distance 0 to itself
            score += np.log(np.abs(nodes - nodes[order[-1]]))
        order.append(int(np.argmax(score)))
    return np.array(order)


class CountState(NamedTuple):
    """State of `scale_by_chebyshev_steps`."""

    taken: Array  # [], number of steps taken


def scale_by_chebyshev_steps(
    smallest: Array | float, largest: Array | float, num_steps: int
) -> optax.GradientTransformationExtraArgs:
    """Chebyshev step sizes 1/α_k = (L+μ)/2 + (L−μ)/2 · cos((2j−1)π/2T), in a stable order.

    The direction is u = α_k g, for the inner loop's step size 1. After T steps, an eigenvector of μ
    or L is contracted by 1/T_T((κ+1)/(κ−1)), and every other eigenvector at least as much. This is
    the lower bound of all first-order methods. Nothing is guaranteed before step T.

    Args:
      smallest: μ > 0, the smallest eigenvalue; may be learned.
      largest: L ≥ μ, the largest eigenvalue; may be learned.
      num_steps: T. Later steps repeat the sequence.

    Raises:
      TypeError: num_steps is traced.
      ValueError: num_steps is below 1, or an eigenvalue is a number out of range.

    References:
      Young, On Richardson's method for solving linear systems, 1953;
      Reichel, Newton interpolation at Leja points, 1990 (the order).
    """
    num_steps = check_static("num_steps", num_steps)
    check_numbers(at_least(1), num_steps=num_steps)
    _check_spectrum(smallest, largest)
    nodes = np.cos((2 * np.arange(1, num_steps + 1) - 1) * np.pi / (2 * num_steps))
    nodes = nodes[_leja_order(nodes)]

    def init(params: Params) -> CountState:
        del params
        return CountState(jnp.zeros((), jnp.int32))

    def update(
        updates: PyTree, state: CountState, params: Params | None = None, **extra: PyTree
    ) -> tuple[PyTree, CountState]:
        del params, extra
        node = jnp.asarray(nodes)[state.taken % num_steps]
        step = 1 / ((largest + smallest) / 2 + (largest - smallest) / 2 * node)
        return scale(step, updates), CountState(state.taken + 1)

    return optax.GradientTransformationExtraArgs(init, update)


class SemiIterationState(NamedTuple):
    """State of `scale_by_chebyshev`."""

    direction: Params  # u_{k−1}, [*p]
    ratio: Array  # [], r_{k−1}
    taken: Array  # [], number of steps taken


def scale_by_chebyshev(
    smallest: Array | float, largest: Array | float
) -> optax.GradientTransformationExtraArgs:
    """The Chebyshev semi-iteration, which is optimal after every number of steps.

    With d = (L+μ)/2, e = (L−μ)/2 and r_k = ρ_k/e of the literature, it starts from r_0 = 1/d and
    u_0 = g_0/d. The later steps are r_k = 1/(2d − e² r_{k−1}) and
    u_k = e² r_k r_{k−1} u_{k−1} + 2 r_k g_k, for the inner loop's step size 1. If L = μ, this is
    gradient descent.

    Args:
      smallest: μ > 0, the smallest eigenvalue; may be learned.
      largest: L ≥ μ, the largest eigenvalue; may be learned.

    Raises:
      ValueError: an eigenvalue is a number out of range.

    References:
      Golub, Varga, Chebyshev semi-iterative methods, 1961; Saad, Iterative methods for sparse
      linear systems, algorithm 12.1.
    """
    _check_spectrum(smallest, largest)

    def init(params: Params) -> SemiIterationState:
        zeros = optax.tree.zeros_like(params)
        return SemiIterationState(zeros, jnp.zeros(()), jnp.zeros((), jnp.int32))

    def update(
        updates: PyTree, state: SemiIterationState, params: Params | None = None, **extra: PyTree
    ) -> tuple[PyTree, SemiIterationState]:
        del params, extra
        center, square = (largest + smallest) / 2, ((largest - smallest) / 2) ** 2
        first = state.taken == 0
        ratio = jnp.where(first, 1 / center, 1 / (2 * center - square * state.ratio))
        new = jnp.where(first, ratio, 2 * ratio)
        kept = scale(square * ratio * state.ratio, state.direction)
        direction = add(kept, scale(new, updates))
        ratio = jnp.asarray(ratio, state.ratio.dtype)
        return direction, SemiIterationState(direction, ratio, state.taken + 1)

    return optax.GradientTransformationExtraArgs(init, update)
