"""One task: the inner loop, its step sizes, its optimizers and the estimators of meta-gradients.

`adapt` holds the inner loop, `meta_gradients` and `step_sizes` the kinds of both that a name
selects, and `optimizers` the transforms that map gradients to directions, which
the loop subtracts.
"""

from maml_jax.inner import optimizers
from maml_jax.inner.adapt import InnerLoop
from maml_jax.inner.meta_gradients import META_GRADIENTS, MetaGradient, implicit
from maml_jax.inner.optimizers import INNER_OPTIMIZERS, as_direction, register_inner_optimizer, sgd
from maml_jax.inner.step_sizes import STEP_SIZES, StepSizes, broadcast

__all__ = [
    "INNER_OPTIMIZERS",
    "META_GRADIENTS",
    "STEP_SIZES",
    "InnerLoop",
    "MetaGradient",
    "StepSizes",
    "as_direction",
    "broadcast",
    "implicit",
    "optimizers",
    "register_inner_optimizer",
    "sgd",
]
