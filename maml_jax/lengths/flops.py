"""Inner compute C: the FLOPs of adapting to one task with given lengths.

With A_k the tensors that step k still updates, R(A) = min_{t in A} R_t, and the sum over the K
steps in which A_k is not empty,

C = Σ_k (F − R(A_k) + max_{t in A_k} B_t + Σ_{t in A_k} (G_t + P_t)) + R(A_{K−1}).

- F is the forward pass, B_t the backward pass down to where tensor t is used, and G_t the gradient
  of t. A tensor with a single updated weight counts in full.
- P_t are the products of the inner optimizer itself for t, as with the matrices of Meta-Curvature.
- R_t is the part of the forward pass that does not depend on t. The features below the deepest
  tensor that is still updated are the same in all later steps, so they are evaluated once, as
  those of ANIL (Raghu et al. 2020, arXiv:1909.09157).

All parts are counted in traced programs: 2 for each multiply-add of a matrix product or a
convolution, and nothing for elementwise operations. C is what a loop executes that is compiled for
a schedule (`maml_jax.lengths.schedule`); one that masks computes all tensors in all K_max steps.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVarTuple

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import Jaxpr, JaxprEqn, Var

from maml_jax.params import (
    Shape,
    everything,
    merge_params,
    same_at_every_step,
    split_params,
    with_paths,
)
from maml_jax.types import Array, AtStepFn, LossFn, Params, PathPredicate, PyTree

Arguments = TypeVarTuple("Arguments")


def inner_jaxprs(equation: JaxprEqn) -> Iterator[Jaxpr]:
    """The programs that an equation calls."""
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(item, "jaxpr", item)
            if isinstance(jaxpr, Jaxpr):
                yield jaxpr


def _shape(variable: Any) -> Shape:
    shape: Shape = variable.aval.shape
    return shape


def count_equation(equation: JaxprEqn) -> float:
    """FLOPs of the matrix products and convolutions of an equation."""
    name = equation.primitive.name
    outputs = math.prod(_shape(equation.outvars[0])) if equation.outvars else 0
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = _shape(equation.invars[0])
        return float(2 * outputs * math.prod(shape[axis] for axis in contracted))
    if name == "conv_general_dilated":
        kernel = _shape(equation.invars[1])
        filters = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        # The input gradient of a strided convolution is padded with zeros between its inputs.
        zeros = math.prod(equation.params["lhs_dilation"])
        return float(2 * outputs * math.prod(kernel) / filters / zeros)
    repeats = equation.params["length"] if name == "scan" else 1
    inner = [_count(jaxpr) for jaxpr in inner_jaxprs(equation)]
    return float(repeats * (max(inner, default=0) if name == "cond" else sum(inner)))


def _count(jaxpr: Jaxpr) -> float:
    return sum(map(count_equation, jaxpr.eqns), 0.0)


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
    own: dict[str, float]  # path -> what gradient and optimizer cost in addition for the tensor
    fixed: dict[str, float]  # path -> the part of the forward pass that does not depend on it

    def step(self, alive: dict[str, bool]) -> float:
        """FLOPs of a step that updates these tensors."""
        updated = [path for path, yes in alive.items() if yes]
        if not updated:
            return 0.0
        deepest = max(self.backward[path] for path in updated)
        return self.forward + deepest + sum(self.own[path] for path in updated)

    @property
    def full_step(self) -> float:
        """FLOPs of a single step that updates all tensors."""
        return self.step(dict.fromkeys(self.own, True))

    def full(self, num_steps: int) -> float:
        """C of num_steps steps that update all tensors."""
        return inner_compute(dict.fromkeys(self.own, num_steps), self)


Parts = list[tuple[float, frozenset[str]]]  # FLOPs, and the tensors that they depend on


def flops_by_inputs(
    jaxpr: Jaxpr, tensors: Sequence[frozenset[str]]
) -> tuple[Parts, list[frozenset[str]]]:
    """The FLOPs of a program by the tensors that its inputs stem from; and those of its outputs."""
    known, parts = dict(zip(jaxpr.invars, tensors, strict=True)), Parts()

    def of(atom: Any) -> frozenset[str]:
        return known.get(atom, frozenset()) if isinstance(atom, Var) else frozenset()

    for equation in jaxpr.eqns:
        read, inner = [of(atom) for atom in equation.invars], [*inner_jaxprs(equation)]
        # What the inner program of a scatter or a reduction reads is not what its equation reads.
        same = len(inner) == 1 and len(inner[0].invars) == len(read)
        if same and equation.primitive.name not in ("scan", "while"):
            more, outputs = flops_by_inputs(inner[0], read)
        else:
            together = frozenset[str]().union(*read)
            more = [(count_equation(equation), together)]
            outputs = [together] * len(equation.outvars)
        parts += more
        known.update(zip(equation.outvars, outputs, strict=True))
    return parts, [of(atom) for atom in jaxpr.outvars]


def _fixed_flops(
    loss: Callable[..., Array], adapted: Params, frozen: Params, support: PyTree
) -> dict[str, float]:
    """Path -> FLOPs of the loss that depend neither on the tensor nor on the step."""

    def at_step(adapted: Params, step: tuple[Array, Array], *others: PyTree) -> Array:
        return loss(adapted, *others, *step)

    paths, step = list(with_paths(adapted)), (jax.random.key(0), jnp.zeros((), jnp.int32))
    jaxpr = jax.make_jaxpr(at_step)(adapted, step, frozen, support).jaxpr
    tensors = [*(frozenset([path]) for path in paths), *[frozenset(paths)] * len(step)]
    tensors += [frozenset()] * (len(jaxpr.invars) - len(tensors))
    parts, _ = flops_by_inputs(jaxpr, tensors)
    return {path: sum(flops for flops, read in parts if path not in read) for path in paths}


def optimizer_flops(optimizer: optax.GradientTransformation, adapted: Params) -> dict[str, float]:
    """Path -> FLOPs of the products that the optimizer makes for the tensor.

    Products for several tensors together are split in proportion to the tensors' sizes.
    """
    with_extra = optax.with_extra_args_support(optimizer)

    def update(grads: Params, params: Params) -> PyTree:
        extra_args = {"gate": params, "step_size": params, "value": jnp.zeros(()), "grad": grads}
        return with_extra.update(grads, with_extra.init(params), params, **extra_args)

    sizes = {path: leaf.size for path, leaf in with_paths(adapted).items()}
    jaxpr = jax.make_jaxpr(update)(adapted, adapted).jaxpr
    parts, _ = flops_by_inputs(jaxpr, [frozenset([path]) for path in (*sizes, *sizes)])
    flops = dict.fromkeys(sizes, 0.0)
    for count, read in parts:
        of_all = sum(sizes[path] for path in read or sizes)
        for path in read or sizes:
            flops[path] += count * sizes[path] / of_all
    return flops


def step_costs(
    loss_fn: LossFn,
    params: Params,
    support: PyTree,
    *,
    adapts: PathPredicate = everything,
    optimizer: optax.GradientTransformation | None = None,
    at_step: AtStepFn = same_at_every_step,
) -> StepCosts:
    """Counts what a step of a loss costs on one task's support data.

    Args:
      loss_fn: (params, support, key) -> (loss, aux).
      params: leaves [*p], arrays or their shapes.
      support: one task's data, arrays or their shapes.
      adapts: selects the adapted parameters by path.
      optimizer: the inner optimizer, over the adapted parameters; None is gradient descent.
      at_step: see `maml_jax.inner.adapt.InnerLoop`; what depends on the step is never the same.

    Returns:
      The costs, counted in the gradients of single tensors and of their pairs with the deepest one.
    """
    adapted, frozen = split_params(params, adapts)
    key, first = jax.random.key(0), jnp.zeros((), jnp.int32)

    def loss(
        adapted: Params, frozen: Params, support: PyTree, key: Array = key, k: Array = first
    ) -> Array:
        return loss_fn(at_step(merge_params(adapted, frozen), k), support, key)[0]

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
    if optimizer is not None:
        products = optimizer_flops(optimizer, adapted)
        own = {path: own[path] + products[path] for path in paths}
    return StepCosts(forward, backward, own, _fixed_flops(loss, adapted, frozen, support))


def inner_compute(lengths: dict[str, int], costs: StepCosts) -> float:
    """C of hard lengths, in FLOPs for one task.

    Args:
      lengths: path -> number of steps of the tensor's longest weight.
      costs: see `step_costs`.
    """
    total = fixed = 0.0
    for k in range(max(lengths.values(), default=0)):
        alive = {path: length > k for path, length in lengths.items()}
        fixed = min(costs.fixed[path] for path, moves in alive.items() if moves)
        total += costs.step(alive) - fixed
    return total + fixed
