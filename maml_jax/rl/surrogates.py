r"""Surrogates: functions of log-probabilities whose derivatives estimate those of the return.

With ℓ_t = log π(a_t | s_t), ℓ⊥_t that of the policy that acted, r_t = ℓ_t − ℓ⊥_t and advantages A_t,
all have the value 0 and the gradient Σ_t ∇ℓ_t A_t where the policy is the one that acted. They
differ in the second derivative, on which the meta-gradient depends:

| name | Σ_t of | Hessian, in expectation | source |
| --- | --- | --- | --- |
| `dice` | [exp(Σ_{s≤t} r_s) − exp(Σ_{s<t} r_s)] A_t | that of the return | Foerster et al. 2018, arXiv:1802.05098; with baselines Farquhar et al. 2019, arXiv:1909.10549 |
| `lvc` | (exp(r_t) − 1) A_t | lacks Σ_t Σ_{s<t} (∇ℓ_s ∇ℓ_tᵀ + ∇ℓ_t ∇ℓ_sᵀ) A_t | Rothfuss et al. 2019, arXiv:1810.06784 |
| `log` | r_t A_t | lacks Σ_t ∇ℓ_t ∇ℓ_tᵀ A_t besides | Finn et al. 2017, arXiv:1703.03400, as in the authors' code |

ℓ⊥ are recorded numbers, and not a stop_gradient of ℓ: on recorded trajectories a surrogate is then
a function of the parameters, which a line search can evaluate elsewhere.
"""  # noqa: E501

from typing import Protocol

import jax.numpy as jnp

from maml_jax.registry import Registry
from maml_jax.types import Array


class Surrogate(Protocol):
    """Maps log ratios r [N, H], 0 after the end, and advantages [N, H] to the terms [N, H]."""

    def __call__(self, log_ratios: Array, advantages: Array, /) -> Array: ...


def dice(log_ratios: Array, advantages: Array) -> Array:
    """The terms of DiCE in its form for advantages."""
    until = jnp.cumsum(log_ratios, -1)
    return (jnp.exp(until) - jnp.exp(until - log_ratios)) * advantages


def lvc(log_ratios: Array, advantages: Array) -> Array:
    """The terms of the low-variance curvature surrogate: likelihood ratios of single steps."""
    return jnp.expm1(log_ratios) * advantages


def log(log_ratios: Array, advantages: Array) -> Array:
    """The terms of the plain score function."""
    return log_ratios * advantages


SURROGATES: Registry[Surrogate] = Registry("estimator", {"dice": dice, "lvc": lvc, "log": log})


def clipped(epsilon: float) -> Surrogate:
    """Likelihood ratios that earn nothing outside [1 − ε, 1 + ε], as in PPO.

    References:
      Schulman, Wolski, Dhariwal, Radford, Klimov, Proximal policy optimization algorithms, 2017,
      arXiv:1707.06347. ProMP (Rothfuss et al. 2019) uses it across tasks.
    """

    def terms(log_ratios: Array, advantages: Array) -> Array:
        gain = jnp.expm1(log_ratios)
        return jnp.minimum(gain * advantages, jnp.clip(gain, -epsilon, epsilon) * advantages)

    return terms
