"""Inner compute C: the FLOPs that a schedule of learned lengths makes the inner loop execute.

C = Σ_k cost of step k; a step costs a full forward pass, the backward pass down to the deepest
tensor that still moves, and the gradients of the tensors that move; 0 once all are halted. A tensor
with one live weight counts whole. FLOPs are those of matrix products and convolutions.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from maml_jax.inner.adapt import AdaptsFn, everything, merge_params, split_params
from maml_jax.inner.groups import with_paths
from maml_jax.inner.halting import with_derivative_of
from maml_jax.types import Array, LossFn, Params, PyTree


def _inner_jaxprs(equation: Any) -> Iterator[Any]:
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(item, "jaxpr", item)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr


def _count(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        outputs = math.prod(equation.outvars[0].aval.shape)
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2.0 * outputs * math.prod(shape[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            filters = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            # The input gradient of a strided convolution is padded with zeros between its inputs.
            zeros = math.prod(equation.params["lhs_dilation"])
            total += 2.0 * outputs * math.prod(kernel) / filters / zeros
        else:
            repeats = equation.params["length"] if name == "scan" else 1
            inner = [_count(jaxpr) for jaxpr in _inner_jaxprs(equation)]
            total += repeats * (max(inner, default=0) if name == "cond" else sum(inner))
    return total


def count_flops(fn: Callable[..., PyTree], *examples: PyTree) -> float:
    """FLOPs of the matrix products and convolutions that fn executes on arguments like these.

    Two for a multiply-add. A `while_loop` counts once, a `cond` as its dearest branch.

    Example:
      >>> import jax.numpy as jnp
      >>> from maml_jax.inner.compute import count_flops
      >>> count_flops(jnp.matmul, jnp.ones((2, 3)), jnp.ones((3, 4)))
      48.0
    """
    return _count(jax.make_jaxpr(fn)(*examples).jaxpr)


class StepCosts(NamedTuple):
    """FLOPs of one inner step, apart for every tensor that may move.

    A step with the set A of tensors that move costs
    forward + max_{t in A} backward[t] + Σ_{t in A} own[t], and 0 if A is empty.
    """

    forward: float
    backward: dict[str, float]  # path -> from the loss down to where the tensor enters
    own: dict[str, float]  # path -> the tensor's gradient, given that

    def step(self, alive: dict[str, bool]) -> float:
        """FLOPs of a step with these tensors moving."""
        moving = [path for path, yes in alive.items() if yes]
        if not moving:
            return 0.0
        deepest = max(self.backward[path] for path in moving)
        return self.forward + deepest + sum(self.own[path] for path in moving)

    @property
    def full_step(self) -> float:
        """FLOPs of a step with all tensors moving."""
        return self.step(dict.fromkeys(self.own, True))


def step_costs(
    loss_fn: LossFn, params: Params, support: PyTree, *, adapts: AdaptsFn = everything
) -> StepCosts:
    """Counts what a step of a loss costs on one task's support data.

    Args:
      loss_fn: (params, support, key) -> (loss, aux).
      params: leaves [*p], arrays or their shapes.
      support: one task's data, arrays or their shapes.
      adapts: which parameters move, by path.

    Returns:
      The costs, from the programs of the gradients of single tensors and of pairs with the deepest.
    """
    moving, fixed = split_params(params, adapts)
    key = jax.random.key(0)

    def loss(moving: Params, fixed: Params, support: PyTree) -> Array:
        return loss_fn(merge_params(moving, fixed), support, key)[0]

    def of(*paths: str) -> float:
        chosen, others = split_params(moving, lambda path: path in paths)
        return count_flops(
            jax.grad(lambda chosen, others, *rest: loss(merge_params(chosen, others), *rest)),
            *(chosen, others, fixed, support),
        )

    forward = count_flops(loss, moving, fixed, support)
    paths = list(with_paths(moving))
    alone = {path: of(path) for path in paths}
    deepest = max(paths, key=lambda path: alone[path])
    own = {path: of(path, deepest) - alone[deepest] for path in paths if path != deepest}
    own[deepest] = 0.0  # inseparable from its backward pass, which no other tensor needs
    backward = {path: alone[path] - forward - own[path] for path in paths}
    return StepCosts(forward, backward, own)


def inner_compute(lengths: dict[str, int], costs: StepCosts) -> float:
    """C of hard lengths, FLOPs for one task.

    Args:
      lengths: path -> steps of the tensor's longest weight.
      costs: see `step_costs`.
    """
    longest = max(lengths.values(), default=0)
    return sum(
        costs.step({path: length > k for path, length in lengths.items()}) for k in range(longest)
    )


def largest(values: Array, near: Array) -> Array:
    """The largest element; its derivative is spread evenly over those that are near to it.

    One weight alone would get the whole derivative otherwise, in turn with thousands of others.

    Args:
      values: of any shape.
      near: bool, like values; where none is True, the derivative is 0.
    """
    share = jax.lax.stop_gradient(near.astype(values.dtype))
    mean = jnp.sum(share * values) / jnp.maximum(jnp.sum(share), 1)
    return with_derivative_of(jnp.max(values), mean)


def expected_step(on: dict[str, Array], costs: StepCosts) -> Array:
    """A differentiable cost of one step: costs.step, with shares on in [0, 1] for alive or not.

    Args:
      on: path -> [], the gate of the tensor's longest weight.
      costs: see `step_costs`.
    """
    by_depth = sorted(on, key=lambda path: -costs.backward[path])
    total = jnp.zeros(())
    alive = jnp.zeros(())  # largest share so far, from the deepest tensor upwards
    for path, above in zip(by_depth, [*by_depth[1:], None], strict=True):
        alive = jnp.maximum(alive, on[path])
        reached = costs.backward[above] if above is not None else 0.0
        total = total + alive * (costs.backward[path] - reached) + on[path] * costs.own[path]
    return total + alive * costs.forward
