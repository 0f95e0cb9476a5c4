"""Settings of the inner loop: the section `inner` of a config."""

import dataclasses

from maml_jax.inner.meta_gradients import META_GRADIENTS
from maml_jax.inner.optimizers.registry import INNER_OPTIMIZERS
from maml_jax.inner.step_sizes import STEP_SIZES
from maml_jax.params import GRANULARITIES
from maml_jax.settings import at_least, between, one_of, positive, setting


@dataclasses.dataclass(frozen=True)
class InnerSettings:
    """How the inner loop adapts to one task."""

    num_steps: int = setting(
        -1, "inner steps K, the largest length if learned; -1: auto", at_least(-1)
    )
    optimizer: str = setting("sgd", "inner optimizer", one_of(INNER_OPTIMIZERS))
    step_size: float = setting(0.01, "step size, or the initial one if learned", positive())
    momentum: float = setting(
        0.9, "momentum of heavy_ball and nesterov, or the initial one if learned", between(0, 1)
    )
    inverse_condition: float = setting(
        0.1,
        "μ/L of chebyshev and nesterov_strongly_convex, with L = 1/step_size",
        between(0, 1, with_low=False),
    )
    clip_norm: float = setting(
        0.0, "clips the L2 norm of inner gradients; 0: no clipping", at_least(0)
    )
    learn_optimizer: str = setting(
        "none",
        "granularity of a learned momentum; global learns the other hyper-parameters",
        one_of(GRANULARITIES, "none"),
    )
    meta_gradient: str = setting(
        "auto", "how the meta-gradient is computed", one_of(META_GRADIENTS, "auto")
    )
    step_sizes: str = setting(
        "auto", "fixed, or which step sizes are learned", one_of(STEP_SIZES, "auto")
    )
    proximal: float = setting(
        0.0, "weight λ of the proximal term of imaml; 0: 1/(step_size·num_steps)", at_least(0)
    )
    cg_steps: int = setting(5, "conjugate-gradient steps of imaml", at_least(1))
    first_order_until: int = setting(
        0, "number of first meta-steps with first-order meta-gradients", at_least(0)
    )
