"""What a run has learned, as numbers: lengths, step sizes, inner optimizer, and inner compute."""

import dataclasses
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maml_jax.errors import UsageError
from maml_jax.inner.optimizers.registry import (
    initial_hyper_params,
    learned_values,
    make_inner_optimizer,
)
from maml_jax.inner.step_sizes import STEP_SIZES
from maml_jax.lengths.flops import StepCosts, inner_compute, optimizer_flops, step_costs
from maml_jax.lengths.gates import Gates
from maml_jax.lengths.schedule import Schedule, schedule_of
from maml_jax.params import expand, split_params, with_paths
from maml_jax.run.problems import Problem
from maml_jax.run.spec import RunSpec
from maml_jax.types import MakeOptimizer, MetaParams, Params, PathPredicate, PyTree

Lengths = dict[str, np.ndarray]  # path -> hard lengths [*p]


@dataclasses.dataclass(frozen=True)
class LearnedSummary:
    """Which parameters adapt at evaluation, for how long, and what that costs.

    Attributes:
      spec: of the run; costs are those of its evaluation episodes.
      problem: the tasks and the network.
      adapts: selects the parameters that adapt, by path.
      gates: of the learned lengths; None if every parameter takes every step.
    """

    spec: RunSpec
    problem: Problem
    adapts: PathPredicate
    gates: Gates | None

    @cached_property
    def _params(self) -> Params:
        steps = self.spec.inner.num_steps
        return jax.eval_shape(lambda key: self.problem.init_params(key, steps), jax.random.key(0))

    @cached_property
    def adapted(self) -> Params:
        """Shapes of the parameters that adapt, None in place of the others."""
        return split_params(self._params, self.adapts)[0]

    @property
    def _momentum_granularity(self) -> str:
        return self.spec.inner.learn_optimizer if self.spec.learns_optimizer else "global"

    def make_optimizer(self, num_steps: int) -> MakeOptimizer:
        """The inner optimizer of a loop with so many steps."""
        name, granularity = self.spec.inner.optimizer, self._momentum_granularity
        return make_inner_optimizer(name, self.adapted, num_steps, granularity)

    def initial_hyper_params(self) -> dict[str, PyTree]:
        """The initial hyper-parameters of the inner optimizer."""
        inner = self.spec.inner
        return initial_hyper_params(
            inner.optimizer,
            self.adapted,
            step_size=inner.step_size,
            momentum=inner.momentum,
            inverse_condition=inner.inverse_condition,
            granularity=self._momentum_granularity,
        )

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return self.make_optimizer(self.spec.eval.num_steps)(self.initial_hyper_params())

    @property
    def optimizer_flops(self) -> float:
        """FLOPs of the inner optimizer's own matrix products in a full step, a part of C."""
        return sum(optimizer_flops(self._optimizer, self.adapted).values())

    @cached_property
    def costs(self) -> StepCosts:
        """FLOPs of an inner step on the support data of one evaluation episode.

        Of a loss that makes its own data, those of the gradient on these data: making them is no
        part of C.
        """
        sampler = self.problem.sampler(self.spec.eval.shots, self.spec.eval.query_shots, "test")
        support = jax.eval_shape(sampler, jax.random.key(0)).support
        if self.problem.record:
            made = jax.eval_shape(self.problem.loss, self._params, support, jax.random.key(0))[1]
            support = made.data
        return step_costs(
            self.problem.loss,
            self._params,
            support,
            adapts=self.adapts,
            optimizer=self._optimizer,
            at_step=self.problem.at_step,
        )

    @property
    def most(self) -> int:
        """The largest length that an evaluation can have."""
        steps = self.spec.eval.num_steps
        if self.gates is None or not self.gates.kind.is_length:
            return steps
        return min(steps, self.gates.num_steps)

    def lengths(self, meta_params: MetaParams) -> Lengths:
        """Path -> hard lengths [*p], of the parameters that adapt."""
        steps, adapted = self.spec.eval.num_steps, with_paths(self.adapted)
        if self.gates is None:
            return {path: np.full(leaf.shape, steps) for path, leaf in adapted.items()}
        lengths = jax.device_get(self.gates.hard_lengths(meta_params.lengths, steps))
        expanded = with_paths(expand(lengths, self.adapted, self.gates.granularity))
        return {
            path: np.broadcast_to(expanded[path], leaf.shape).astype(int)
            for path, leaf in adapted.items()
        }

    def schedule(self, meta_params: MetaParams, num_steps: int) -> Schedule | None:
        """Which tensors an inner loop of so many steps moves; None if no lengths are learned."""
        if self.gates is None:
            return None
        return schedule_of(self.gates.hard, meta_params.lengths, self.adapted, num_steps)

    def cut(self, meta_params: MetaParams, most: int, under: str = "") -> MetaParams:
        """Cuts every length above `most` to it, in the groups whose path starts with `under`.

        Raises:
          UsageError: the run learns no lengths, or none of such a group.
        """
        if self.gates is None or not self.gates.kind.is_length:
            gate = self.spec.lengths.gate
            raise UsageError(f"lengths.gate={gate!r} learns no lengths that could be cut")
        k_max = self.gates.num_steps
        if not 0 <= most <= k_max:
            raise UsageError(f"lengths cannot be cut to {most}; use 0 to inner.num_steps={k_max}")
        chosen = [path for path in meta_params.lengths if path.startswith(under)]
        if not chosen:
            groups = ", ".join(meta_params.lengths)
            raise UsageError(f"no learned lengths are under {under!r}; choose from {groups}")
        cut = {path: jnp.minimum(meta_params.lengths[path], most) for path in chosen}
        return meta_params._replace(lengths={**meta_params.lengths, **cut})

    def step_sizes(self, meta_params: MetaParams) -> dict[str, np.ndarray]:
        """Path -> step sizes [K, ...] at every step, of shapes that broadcast to the tensors."""
        at_step = STEP_SIZES[self.spec.inner.step_sizes].at_step
        per_step = [
            with_paths(at_step(meta_params.step_sizes, self.adapted, jnp.int32(k)))
            for k in range(max(self.spec.eval.num_steps, 1))
        ]
        return {path: np.stack([np.asarray(at[path]) for at in per_step]) for path in per_step[0]}

    def values(self, meta_params: MetaParams) -> dict[str, dict[str, float]]:
        """Name -> min, mean and max of the step sizes and of the inner optimizer, where learned."""
        values: dict[str, Any] = {}
        if self.spec.learns_step_sizes:
            sizes = self.step_sizes(meta_params)
            values |= {f"step_size/{path}": alpha for path, alpha in sizes.items()}
        if self.spec.learns_optimizer:
            values |= jax.device_get(learned_values(meta_params.optimizer))
        return {
            name: {"min": float(of.min()), "mean": float(of.mean()), "max": float(of.max())}
            for name, of in values.items()
        }

    def compute(self, lengths: Lengths, num_steps: int | None = None) -> float:
        """C, FLOPs of adapting to one evaluation episode, in the first steps or in all."""
        limit = self.spec.eval.num_steps if num_steps is None else num_steps
        longest = {path: min(int(value.max()), limit) for path, value in lengths.items()}
        return inner_compute(longest, self.costs)

    def counts(self, meta_params: MetaParams) -> dict[str, list[int]]:
        """Path -> how many of the tensor's parameters take 0, 1, … steps."""
        return {
            path: np.bincount(value.ravel(), minlength=self.most + 1).tolist()
            for path, value in self.lengths(meta_params).items()
        }

    def summary(self, meta_params: MetaParams) -> dict[str, float]:
        """Numbers of the learned lengths for a log; empty if none are learned."""
        if self.gates is None:
            return {}
        lengths, most = self.lengths(meta_params), self.most
        every = np.concatenate([value.ravel() for value in lengths.values()])
        compute = self.compute(lengths)
        values: dict[str, Any] = {
            "length/mean": every.mean(),
            "length/p90": np.percentile(every, 90),
            "length/p99": np.percentile(every, 99),
            "length/max": every.max(),
            "length/share_at_0": np.mean(every == 0),
            "length/share_at_most": np.mean(every >= most),
            "inner_compute": compute,
            "inner_compute_share": compute / self.costs.full(most),
        }
        values |= {f"sparsity/{path}": np.mean(value == 0) for path, value in lengths.items()}
        return {name: float(value) for name, value in values.items()}
