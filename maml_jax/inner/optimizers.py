"""Inner optimizers by name: each makes an optax transform that returns descent directions.

`adapt` applies −α·gate to the direction once, so the entries are optax's `scale_by_*` primitives.
Any other optax optimizer serves through `as_direction`.
"""

from collections.abc import Callable
from typing import Any

import optax

from maml_jax.types import PyTree

MakeOptimizer = Callable[[PyTree], optax.GradientTransformation]


def sgd(hyper_params: PyTree = ()) -> optax.GradientTransformation:
    """Gradient descent: the direction is the gradient."""
    del hyper_params
    return optax.identity()


def heavy_ball(hyper_params: PyTree) -> optax.GradientTransformation:
    """Polyak's momentum m ← g + μ m, with μ = hyper_params["momentum"]."""
    return optax.trace(hyper_params["momentum"])


def nesterov(hyper_params: PyTree) -> optax.GradientTransformation:
    """Nesterov's momentum with constant μ: direction g + μ m, μ = hyper_params["momentum"]."""
    return optax.trace(hyper_params["momentum"], nesterov=True)


def adam(hyper_params: PyTree = ()) -> optax.GradientTransformation:
    """Adam. eps_root keeps meta-gradients finite where an inner gradient is exactly 0."""
    del hyper_params
    return optax.scale_by_adam(eps_root=1e-8)


def as_direction(optimizer: optax.GradientTransformation) -> MakeOptimizer:
    """Uses an optax optimizer that applies its own step size; run it with learning_rates = 1.

    Example:
      >>> import optax
      >>> from maml_jax.inner.optimizers import as_direction
      >>> make_optimizer = as_direction(optax.rmsprop(1e-3, eps=1e-6))
    """

    def make_optimizer(hyper_params: Any = ()) -> optax.GradientTransformation:
        del hyper_params
        return optax.chain(optimizer, optax.scale(-1.0))

    return make_optimizer


INNER_OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd": sgd,
    "heavy_ball": heavy_ball,
    "nesterov": nesterov,
    "adam": adam,
}
