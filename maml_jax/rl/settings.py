"""Settings of reinforcement learning: the section `rl` of a config."""

import dataclasses

from maml_jax.rl.registry import ENVIRONMENTS
from maml_jax.rl.surrogates import SURROGATES
from maml_jax.settings import Rule, at_least, one_of, setting

_SHARE = Rule(lambda value: 0 <= value <= 1, lambda: "0 to 1")
_LOG = Rule(lambda value: -20 <= value <= 10, lambda: "-20 to 10")


@dataclasses.dataclass(frozen=True)
class RLSettings:
    """The environment, and how gradients are estimated from its rollouts."""

    environment: str = setting("navigation", "family of tasks", one_of(ENVIRONMENTS))
    horizon: int = setting(
        -1,
        "most steps of a rollout; -1: that of the environment",
        Rule(lambda value: value == -1 or value >= 1, lambda: "1 or more, or -1"),
    )
    estimator: str = setting("dice", "surrogate of the inner loop", one_of(SURROGATES))
    discount: float = setting(0.99, "discount factor of the advantages", _SHARE)
    gae_lambda: float = setting(
        1.0, "weight of later steps in the generalized advantages; 1: discounted returns", _SHARE
    )
    initial_log_std: float = setting(
        0.0, "first logarithm of the actions' standard deviation", _LOG
    )
    min_log_std: float = setting(-13.8, "floor of this logarithm", _LOG)
    clip: float = setting(
        0.0,
        "the outer loss gains nothing from likelihood ratios outside [1 - clip, 1 + clip], as in "
        "PPO; 0: no clipping",
        at_least(0),
    )
