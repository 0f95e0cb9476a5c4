"""Costs of learned lengths: a penalty in the meta-objective, with a weight or a budget."""

from functools import reduce
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from maml_jax.lengths.flops import StepCosts
from maml_jax.lengths.gates import Gates, with_derivative_of
from maml_jax.params import expand, with_paths
from maml_jax.types import Array, GateFn, MetaParams, Params

Extras = dict[str, Array]  # the extras of a TrainState: {"dual": λ}
COSTS = ("length", "compute")


class CostFn(Protocol):
    """Cost of learned lengths at temperature τ [], as a share [] of the full cost."""

    def __call__(self, meta_params: MetaParams, temperature: Array, /) -> Array: ...


class TemperatureFn(Protocol):
    """Maps a meta-step [] to the temperature τ [] of the gates."""

    def __call__(self, step: Array, /) -> Array: ...


class Budget(NamedTuple):
    """How a cost is penalized: weight · cost, or λ · (cost − target) with a dual variable λ ≥ 0."""

    weight: float = 0.0
    target: float | None = None  # share of the full cost; None: use the weight
    dual_rate: float = 0.01  # λ ← max(0, λ + dual_rate · (cost − target)) every meta-step


def largest(values: Array, near: Array) -> Array:
    """Returns the largest element, with a derivative that is spread evenly over those near to it.

    Otherwise one weight would receive the whole derivative, in turn with thousands of others.

    Args:
      values: an array of any shape.
      near: bool, like values; if none is True, the derivative is 0.
    """
    share = jax.lax.stop_gradient(near.astype(values.dtype))
    near_values = jnp.where(near, values, 0)  # the others may be infinite
    mean = jnp.sum(share * near_values) / jnp.maximum(jnp.sum(share), 1)
    return with_derivative_of(jnp.max(values), mean)


def expected_step(on: dict[str, Array], costs: StepCosts) -> Array:
    """A differentiable form of `StepCosts.step`, for tensors that are alive by a share in [0, 1].

    Args:
      on: path -> [], the gate of the tensor's longest weight.
      costs: see `maml_jax.lengths.flops.step_costs`.
    """
    by_depth = sorted(on, key=lambda path: -costs.backward[path])
    total = jnp.zeros(())
    alive = jnp.zeros(())  # largest share so far, from the deepest tensor up
    for path, above in zip(by_depth, [*by_depth[1:], None], strict=True):
        alive = jnp.maximum(alive, on[path])
        reached = costs.backward[above] if above is not None else 0.0
        total = total + alive * (costs.backward[path] - reached) + on[path] * costs.own[path]
    return total + alive * costs.forward


def mean_length_cost(gates: Gates, adapted: Params) -> CostFn:
    """Mean expected length of the adapted parameters, divided by K.

    Args:
      gates: the gates of the learned lengths.
      adapted: the adapted parameters (arrays or shapes), with None in place of the frozen ones.
    """
    sizes = {path: leaf.size for path, leaf in with_paths(adapted).items()}

    def cost(meta_params: MetaParams, temperature: Array) -> Array:
        lengths = gates.expected_lengths(meta_params.lengths, temperature)
        of_tensors = with_paths(expand(lengths, adapted, gates.granularity))
        totals = [sizes[path] * jnp.mean(value) for path, value in of_tensors.items()]
        return sum(totals, jnp.zeros(())) / (gates.num_steps * sum(sizes.values()))

    return cost


def compute_cost(gates: Gates, adapted: Params, costs: StepCosts) -> CostFn:
    """Expected inner compute, divided by that of K full steps.

    Backpropagation is charged down to the deepest tensor that is still alive; see `expected_step`.
    A tensor is alive as long as its longest weight. The derivative goes to the weights within one
    step of that one, because shortening the others saves nothing. Features below the deepest tensor
    that adapts are charged once. That a length of 0 fixes more of them is not credited here, only
    by `maml_jax.lengths.flops.inner_compute`.

    Args:
      gates: the gates of the learned lengths.
      adapted: as in `mean_length_cost`.
      costs: see `maml_jax.lengths.flops.step_costs`.
    """

    fixed = min(costs.fixed.values())
    again = costs._replace(forward=costs.forward - fixed)  # a step after the first one
    full = again.full_step + fixed / gates.num_steps

    def longest(learned: Array) -> Array:
        margin = 1.0 if gates.kind.is_length else jnp.inf
        return largest(learned, (learned > jnp.max(learned) - margin) & (learned > 0))

    def cost(meta_params: MetaParams, temperature: Array) -> Array:
        learned = meta_params.lengths
        if not gates.kind.per_step:
            learned = jax.tree.map(longest, learned)

        @jax.checkpoint
        def add(total: Array, k: Array) -> tuple[Array, None]:
            on = gates.probabilities_on(learned, k, temperature)
            if gates.kind.per_step:
                on = jax.tree.map(lambda gate: largest(gate, gate >= jnp.max(gate) / 2), on)
            of_tensors = with_paths(expand(on, adapted, gates.granularity))
            cost = expected_step(of_tensors, again)
            if fixed:
                any_on = reduce(jnp.maximum, of_tensors.values())
                cost = cost + jnp.where(k == 0, any_on * fixed, 0)
            return total + cost / full, None

        total, _ = jax.lax.scan(add, jnp.zeros(()), jnp.arange(gates.num_steps))
        return total / gates.num_steps

    return cost


def annealed(first: float, last: float, num_meta_steps: int) -> TemperatureFn:
    """A temperature that goes from `first` to `last` geometrically, over num_meta_steps."""
    return lambda step: first * (last / first) ** jnp.minimum(step / num_meta_steps, 1.0)


def penalize(cost: Array, budget: Budget, dual: Array) -> tuple[Array, Array]:
    """Returns the penalty, and the dual variable of the next meta-step.

    Args:
      cost: [], as a share of the full cost.
      budget: the weight or the target.
      dual: [], λ.
    """
    if budget.target is None:
        return budget.weight * cost, dual
    excess = cost - budget.target
    return dual * excess, jnp.maximum(0.0, dual + budget.dual_rate * jax.lax.stop_gradient(excess))


def _always_1(step: Array) -> Array:
    del step
    return jnp.ones(())


def _free(meta_params: MetaParams, temperature: Array) -> Array:
    del meta_params, temperature
    return jnp.zeros(())


class LearnedLengths(NamedTuple):
    """What the meta-objective needs to learn lengths; by default they cost nothing.

    A `Budget` with a target needs a dual variable: init_state(..., extras={"dual": 0.0}).
    """

    gates: Gates
    temperature: TemperatureFn = _always_1
    cost: CostFn = _free
    budget: Budget = Budget()

    def gates_of_task(self, step: Array, key: Array) -> GateFn:
        """Returns the gates of one task at a meta-step."""
        return self.gates.soft(self.temperature(step), key)

    def penalty(
        self, meta_params: MetaParams, step: Array, extras: Extras
    ) -> tuple[Array, Array, Extras]:
        """Returns the penalty, the cost, and extras with the next dual variable.

        Raises:
          ValueError: the budget has a target, but extras have no dual variable.
        """
        cost = self.cost(meta_params, self.temperature(step))
        if self.budget.target is None:
            return penalize(cost, self.budget, jnp.zeros(()))[0], cost, extras
        if "dual" not in extras:
            raise ValueError('a budget needs init_state(..., extras={"dual": 0.0})')
        term, dual = penalize(cost, self.budget, extras["dual"])
        return term, cost, {"dual": dual}
