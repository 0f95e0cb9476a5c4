"""A run's learned lengths as numbers: hard lengths, inner compute, shares at the bounds."""

from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from maml_jax.config import automatic
from maml_jax.errors import UsageError
from maml_jax.inner.adapt import AdaptsFn, split_params
from maml_jax.inner.compute import StepCosts, inner_compute, step_costs
from maml_jax.inner.groups import expand, with_paths
from maml_jax.inner.halting import Halting
from maml_jax.inner.learning_rates import RATES
from maml_jax.inner.optimizers import learned_values
from maml_jax.problems import Problem
from maml_jax.types import MetaParams, Params


class Schedule:
    """Who moves for how long at evaluation, and what that costs.

    Args:
      config: of the run; costs are those of its evaluation episodes.
      problem: the tasks and the network.
      adapts: which parameters move, by path.
      halting: learned lengths; None where every parameter takes every step.
    """

    def __init__(
        self, config: ConfigDict, problem: Problem, adapts: AdaptsFn, halting: Halting | None
    ) -> None:
        """Computes nothing yet."""
        self._config, self._problem, self._adapts = config, problem, adapts
        self.halting = halting

    @cached_property
    def _params(self) -> Params:
        steps = self._config.inner.num_steps
        return jax.eval_shape(lambda key: self._problem.init_params(key, steps), jax.random.key(0))

    @cached_property
    def moving(self) -> Params:
        """Shapes of the parameters that adapt, None in the others' places."""
        return split_params(self._params, self._adapts)[0]

    @cached_property
    def costs(self) -> StepCosts:
        """FLOPs of an inner step on the support data of one evaluation episode."""
        shots, query_shots = self._config.eval.shots, self._config.eval.query_shots
        sampler = self._problem.sampler(shots, query_shots, "test")
        support = jax.eval_shape(sampler, jax.random.key(0)).support
        zero = jnp.zeros((), jnp.int32)
        return step_costs(
            lambda params, support, key: self._problem.loss_fn(
                self._problem.at_step(params, zero), support, key
            ),
            self._params,
            support,
            adapts=self._adapts,
        )

    @property
    def most(self) -> int:
        """The largest length that an evaluation can have."""
        steps: int = self._config.eval.num_steps
        if self.halting is None or not self.halting.kind.is_length:
            return steps
        return min(steps, self.halting.num_steps)

    def lengths(self, meta_params: MetaParams) -> dict[str, np.ndarray]:
        """Path -> hard lengths [*p], of the parameters that adapt."""
        steps = self._config.eval.num_steps
        if self.halting is None:
            return {
                path: np.full(leaf.shape, steps) for path, leaf in with_paths(self.moving).items()
            }
        lengths = jax.device_get(self.halting.hard_lengths(meta_params.halting, steps))
        expanded = with_paths(expand(lengths, self.moving, self.halting.granularity))
        return {
            path: np.broadcast_to(expanded[path], leaf.shape).astype(int)
            for path, leaf in with_paths(self.moving).items()
        }

    def cut(self, meta_params: MetaParams, most: int, under: str = "") -> MetaParams:
        """The same with every longer length cut to `most`, of groups whose path begins so.

        Raises:
          UsageError: the run learns no lengths, or none of such a group.
        """
        if self.halting is None or not self.halting.kind.is_length:
            gate = automatic(self._config)["halting.gate"]
            raise UsageError(f"halting.gate={gate!r} learns no lengths that could be cut")
        k_max = self.halting.num_steps
        if not 0 <= most <= k_max:
            raise UsageError(f"lengths cannot be cut to {most}; use 0 to inner.num_steps={k_max}")
        chosen = [path for path in meta_params.halting if path.startswith(under)]
        if not chosen:
            groups = ", ".join(meta_params.halting)
            raise UsageError(f"no learned lengths are under {under!r}; choose from {groups}")
        cut = {path: jnp.minimum(meta_params.halting[path], most) for path in chosen}
        return meta_params._replace(halting={**meta_params.halting, **cut})

    def rates(self, meta_params: MetaParams) -> dict[str, np.ndarray]:
        """Path -> step sizes [K, ...] at every step, of shapes that broadcast to the tensors."""
        name = automatic(self._config)["inner.rates"]
        per_step = [
            with_paths(RATES[name].rates(meta_params.learning_rates, self.moving, jnp.int32(k)))
            for k in range(max(self._config.eval.num_steps, 1))
        ]
        return {path: np.stack([np.asarray(at[path]) for at in per_step]) for path in per_step[0]}

    def learned(self, meta_params: MetaParams) -> dict[str, dict[str, float]]:
        """Name -> min, mean and max of the step sizes and of the inner optimizer, where learned."""
        values: dict[str, Any] = {}
        if automatic(self._config)["inner.rates"] != "fixed":
            values |= {f"rate/{path}": alpha for path, alpha in self.rates(meta_params).items()}
        if self._config.inner.learn_optimizer != "none":
            values |= jax.device_get(learned_values(meta_params.optimizer))
        return {
            name: {"min": float(of.min()), "mean": float(of.mean()), "max": float(of.max())}
            for name, of in values.items()
        }

    def compute(self, lengths: dict[str, np.ndarray], num_steps: int | None = None) -> float:
        """C, FLOPs of adapting to one evaluation episode, in the first steps or in all."""
        limit = self._config.eval.num_steps if num_steps is None else num_steps
        longest = {path: min(int(value.max()), limit) for path, value in lengths.items()}
        return inner_compute(longest, self.costs)

    def counts(self, meta_params: MetaParams) -> dict[str, list[int]]:
        """Path -> how many of the tensor's parameters take 0, 1, … steps."""
        return {
            path: np.bincount(value.ravel(), minlength=self.most + 1).tolist()
            for path, value in self.lengths(meta_params).items()
        }

    def summary(self, meta_params: MetaParams) -> dict[str, float]:
        """Numbers of the learned lengths for a log; empty where none are learned."""
        if self.halting is None:
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
            "inner_compute_share": compute / (most * self.costs.full_step),
        }
        values |= {f"sparsity/{path}": np.mean(value == 0) for path, value in lengths.items()}
        return {name: float(value) for name, value in values.items()}
