"""Inner compute C: the FLOPs that the inner loop needs with given lengths.

C is the sum over steps of a full forward pass, the backward pass down to the deepest tensor that is
still updated, and the gradients of the updated tensors. A step without updated tensors costs
nothing. A tensor with a single updated weight counts in full. Only matrix products and convolutions
are counted.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVarTuple

import jax
from jax.extend.core import Jaxpr, JaxprEqn

from maml_jax.params import Shape, everything, merge_params, split_params, with_paths
from maml_jax.types import Array, LossFn, Params, PathPredicate, PyTree

Arguments = TypeVarTuple("Arguments")


def _inner_jaxprs(equation: JaxprEqn) -> Iterator[Jaxpr]:
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(item, "jaxpr", item)
            if isinstance(jaxpr, Jaxpr):
                yield jaxpr


def _shape(variable: Any) -> Shape:
    shape: Shape = variable.aval.shape
    return shape


def _count(jaxpr: Jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        outputs = math.prod(_shape(equation.outvars[0]))
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = _shape(equation.invars[0])
            total += 2.0 * outputs * math.prod(shape[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel = _shape(equation.invars[1])
            filters = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            # The input gradient of a strided convolution is padded with zeros between its inputs.
            zeros = math.prod(equation.params["lhs_dilation"])
            total += 2.0 * outputs * math.prod(kernel) / filters / zeros
        else:
            repeats = equation.params["length"] if name == "scan" else 1
            inner = [_count(jaxpr) for jaxpr in _inner_jaxprs(equation)]
            total += repeats * (max(inner, default=0) if name == "cond" else sum(inner))
    return total


def count_flops(fn: Callable[[*Arguments], PyTree], *examples: *Arguments) -> float:
    """FLOPs of the matrix products and convolutions that fn executes on arguments like these.

    A multiply-add counts as two. The body of a `while_loop` counts once, and a `cond` counts as its
    most expensive branch.

    Example:
      >>> import jax.numpy as jnp
      >>> from maml_jax.lengths.flops import count_flops
      >>> count_flops(jnp.matmul, jnp.ones((2, 3)), jnp.ones((3, 4)))
      48.0
    """
    return _count(jax.make_jaxpr(fn)(*examples).jaxpr)


class StepCosts(NamedTuple):
    """FLOPs of one inner step, by tensor.

    A step that updates the set A of tensors costs
    forward + max_{t in A} backward[t] + Σ_{t in A} own[t], and 0 if A is empty.
    """

    forward: float
    backward: dict[str, float]  # path -> backward pass down to where the tensor is used
    own: dict[str, float]  # path -> what the tensor's gradient costs in addition

    def step(self, alive: dict[str, bool]) -> float:
        """FLOPs of a step that updates these tensors."""
        updated = [path for path, yes in alive.items() if yes]
        if not updated:
            return 0.0
        deepest = max(self.backward[path] for path in updated)
        return self.forward + deepest + sum(self.own[path] for path in updated)

    @property
    def full_step(self) -> float:
        """FLOPs of a step that updates all tensors."""
        return self.step(dict.fromkeys(self.own, True))


def step_costs(
    loss_fn: LossFn, params: Params, support: PyTree, *, adapts: PathPredicate = everything
) -> StepCosts:
    """Counts what a step of a loss costs on one task's support data.

    Args:
      loss_fn: (params, support, key) -> (loss, aux).
      params: leaves [*p], arrays or their shapes.
      support: one task's data, arrays or their shapes.
      adapts: selects the adapted parameters by path.

    Returns:
      The costs, counted in the gradients of single tensors and of their pairs with the deepest one.
    """
    adapted, frozen = split_params(params, adapts)
    key = jax.random.key(0)

    def loss(adapted: Params, frozen: Params, support: PyTree) -> Array:
        return loss_fn(merge_params(adapted, frozen), support, key)[0]

    def of(*paths: str) -> float:
        chosen, others = split_params(adapted, lambda path: path in paths)
        return count_flops(
            jax.grad(lambda chosen, others, *rest: loss(merge_params(chosen, others), *rest)),
            *(chosen, others, frozen, support),
        )

    forward = count_flops(loss, adapted, frozen, support)
    paths = list(with_paths(adapted))
    alone = {path: of(path) for path in paths}
    deepest = max(paths, key=lambda path: alone[path])
    own = {path: of(path, deepest) - alone[deepest] for path in paths if path != deepest}
    own[deepest] = 0.0  # part of its backward pass, which no other tensor needs
    backward = {path: alone[path] - forward - own[path] for path in paths}
    return StepCosts(forward, backward, own)


def inner_compute(lengths: dict[str, int], costs: StepCosts) -> float:
    """C of hard lengths, in FLOPs for one task.

    Args:
      lengths: path -> number of steps of the tensor's longest weight.
      costs: see `step_costs`.
    """
    longest = max(lengths.values(), default=0)
    return sum(
        costs.step({path: length > k for path, length in lengths.items()}) for k in range(longest)
    )
