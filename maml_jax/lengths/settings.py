"""Settings of learned lengths: the section `lengths` of a config."""

import dataclasses

from maml_jax.lengths.cost import COSTS
from maml_jax.lengths.gates import GATES
from maml_jax.params import GRANULARITIES
from maml_jax.settings import Rule, at_least, between, one_of, positive, setting


@dataclasses.dataclass(frozen=True)
class LengthsSettings:
    """How the number of inner steps of each parameter is learned."""

    gate: str = setting(
        "auto", "kind of gate; none: all steps are taken", one_of(GATES, "auto", "none")
    )
    granularity: str = setting(
        "auto", "parameters that share one length", one_of(GRANULARITIES, "auto")
    )
    initial_length: float = setting(
        -1.0,
        "initial length in inner steps; -1: half of inner.num_steps",
        Rule(lambda value: value == -1 or value >= 0, lambda: "0 to inner.num_steps, or -1"),
    )
    temperature: float = setting(1.0, "initial temperature of soft gates, in steps", positive())
    final_temperature: float = setting(
        1.0, "temperature at the last meta-step, reached geometrically", positive()
    )
    cost: str = setting(
        "length",
        "length: mean length / K; compute: inner FLOPs / those of K full steps",
        one_of(COSTS),
    )
    cost_weight: float = setting(0.0, "weight of the cost in the meta-objective", at_least(0))
    budget: float = setting(
        0.0, "share of the full cost at which a dual variable holds it; 0: no budget", between(0, 1)
    )
    dual_rate: float = setting(0.01, "learning rate of the dual variable", positive())
    freeze_at: float = setting(
        1.0,
        "share of the meta-steps after which lengths are fixed and the loop is compiled for them",
        Rule(lambda value: 0 < value <= 1, lambda: "more than 0, at most 1"),
    )
