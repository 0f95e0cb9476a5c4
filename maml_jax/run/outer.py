"""The outer step that a run's settings describe."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maml_jax.lengths.gates import Gates
from maml_jax.meta.outer import OuterStep, keep_within, optax_outer, outer_chain
from maml_jax.rl.trpo import trpo
from maml_jax.run.spec import RunSpec


def unless_zero(value: Any, otherwise: Any = None) -> Any:
    """The value, or what 0 stands for; an array, as a population has it, is not 0."""
    return value if isinstance(value, jax.Array) or value else otherwise


def _over_time(spec: RunSpec, rate: float) -> optax.ScalarOrSchedule:
    if spec.outer.schedule == "cosine":
        return optax.cosine_decay_schedule(rate, spec.num_meta_steps)
    return rate


def _from_step(start: int, rate: optax.ScalarOrSchedule) -> optax.Schedule:
    """0 before the start, so that Adam's moments are ready by then."""

    def schedule(count: Any) -> Any:
        return jnp.where(count < start, 0.0, rate(count) if callable(rate) else rate)

    return schedule


def _outer_optimizers(
    spec: RunSpec, gates: Gates | None
) -> dict[str, optax.GradientTransformation]:
    """Learned field of MetaParams -> its optimizer."""
    outer, rate = spec.outer, _over_time(spec, spec.outer.learning_rate)
    optimizers = {
        "adam": lambda: optax.adam(rate),
        "adamw": lambda: optax.adamw(rate, weight_decay=outer.weight_decay),
        "sgd": lambda: optax.sgd(rate),
    }
    learned: dict[str, optax.GradientTransformation] = {}
    if outer.optimizer in optimizers:
        learned["init"] = optimizers[outer.optimizer]()
    if gates is not None:
        default = 0.05 if gates.kind.is_length else 0.0075
        lengths_rate = _over_time(spec, unless_zero(outer.lengths_learning_rate, default))
        learned["lengths"] = optax.chain(
            optax.adam(_from_step(outer.lengths_from, lengths_rate)), keep_within(*gates.bounds)
        )
    if spec.learns_step_sizes:
        learned["step_sizes"] = optax.adam(_over_time(spec, outer.step_sizes_learning_rate))
    if spec.learns_optimizer:
        learned["optimizer"] = optax.adam(_over_time(spec, outer.optimizer_learning_rate))
    return learned


def make_outer_step(spec: RunSpec, gates: Gates | None) -> tuple[OuterStep, tuple[str, ...]]:
    """The outer step, and the fields of MetaParams that it learns."""
    outer, optimizers = spec.outer, _outer_optimizers(spec, gates)
    clip, clip_norm = map(unless_zero, (outer.clip, outer.clip_norm))
    chain = outer_chain(optimizers, clip=clip, clip_norm=clip_norm)
    if outer.optimizer != "trpo":
        return optax_outer(chain, outer.num_updates), tuple(optimizers)
    natural = trpo(chain, max_kl=outer.max_kl, cg_steps=outer.cg_steps, damping=outer.damping)
    return natural, ("init", *optimizers)
