"""What learned lengths cost: a term of the meta-objective, by weight or held at a budget."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from maml_jax.inner.compute import StepCosts, expected_step, largest
from maml_jax.inner.groups import expand, with_paths
from maml_jax.inner.halting import GateFn, Halting
from maml_jax.types import Array, MetaParams, Params

Extras = dict[str, Array]  # of TrainState: {"dual": λ}
CostFn = Callable[[MetaParams, Array], Array]  # (meta-parameters, τ) -> share of the most, [0, 1]


class Budget(NamedTuple):
    """How a cost enters the objective: weight · cost, or λ · (cost − target) with a dual λ ≥ 0."""

    weight: float = 0.0
    target: float | None = None  # share of the full cost; None: weight alone
    dual_rate: float = 0.01  # λ ← max(0, λ + dual_rate · (cost − target)) every meta-step


def mean_length_cost(halting: Halting, moving: Params) -> CostFn:
    """Mean over the parameters that adapt of their expected length, over K.

    Args:
      halting: the learned lengths.
      moving: the parameters that adapt (arrays or shapes), None in the others' places.
    """
    sizes = {path: leaf.size for path, leaf in with_paths(moving).items()}

    def cost(meta_params: MetaParams, temperature: Array) -> Array:
        lengths = halting.expected_lengths(meta_params.halting, temperature)
        of_tensors = with_paths(expand(lengths, moving, halting.granularity))
        totals = [sizes[path] * jnp.mean(value) for path, value in of_tensors.items()]
        return sum(totals, jnp.zeros(())) / (halting.num_steps * sum(sizes.values()))

    return cost


def compute_cost(halting: Halting, moving: Params, costs: StepCosts) -> CostFn:
    """Expected inner compute over that of K full steps.

    A step is paid down to the deepest tensor that is still alive, as backpropagation has to reach
    it; see `maml_jax.inner.compute.expected_step`. A tensor lives as long as its longest weight:
    the derivative goes to the weights within one step of that one, and shortening the others
    saves nothing.
    """

    def longest(learned: Array) -> Array:
        margin = 1.0 if halting.kind.is_length else jnp.inf
        return largest(learned, (learned > jnp.max(learned) - margin) & (learned > 0))

    def cost(meta_params: MetaParams, temperature: Array) -> Array:
        learned = meta_params.halting
        if not halting.kind.per_step:
            learned = jax.tree.map(longest, learned)

        @jax.checkpoint
        def add(total: Array, k: Array) -> tuple[Array, None]:
            on = halting.probabilities_on(learned, k, temperature)
            if halting.kind.per_step:
                on = jax.tree.map(lambda gate: largest(gate, gate >= jnp.max(gate) / 2), on)
            of_tensors = with_paths(expand(on, moving, halting.granularity))
            return total + expected_step(of_tensors, costs) / costs.full_step, None

        total, _ = jax.lax.scan(add, jnp.zeros(()), jnp.arange(halting.num_steps))
        return total / halting.num_steps

    return cost


def annealed(first: float, last: float, num_meta_steps: int) -> Callable[[Array], Array]:
    """Temperature from `first` to `last`, geometrically over the run."""
    return lambda step: first * (last / first) ** jnp.minimum(step / num_meta_steps, 1.0)


def penalty(cost: Array, budget: Budget, dual: Array) -> tuple[Array, Array]:
    """The term of the objective, and the dual variable of the next meta-step.

    Args:
      cost: [], share of the full cost.
      budget: weight or target.
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
    """What the meta-objective needs to learn lengths; by default a step costs nothing.

    A `Budget` with a target needs its dual variable: init_state(..., extras={"dual": 0.0}).
    """

    halting: Halting
    temperature: Callable[[Array], Array] = _always_1  # meta-step -> τ
    cost: CostFn = _free
    budget: Budget = Budget()

    def gates(self, step: Array, key: Array) -> GateFn:
        """The gates of one task at a meta-step."""
        return self.halting.soft(self.temperature(step), key)

    def term(
        self, meta_params: MetaParams, step: Array, extras: Extras
    ) -> tuple[Array, Array, Extras]:
        """Term of the objective, the cost as a share, and extras with the next dual variable.

        Raises:
          ValueError: a budget without a dual variable in extras.
        """
        cost = self.cost(meta_params, self.temperature(step))
        if self.budget.target is None:
            return penalty(cost, self.budget, jnp.zeros(()))[0], cost, extras
        if "dual" not in extras:
            raise ValueError('a budget needs init_state(..., extras={"dual": 0.0})')
        term, dual = penalty(cost, self.budget, extras["dual"])
        return term, cost, {"dual": dual}
