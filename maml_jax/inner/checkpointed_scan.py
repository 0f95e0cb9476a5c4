"""A scan whose memory grows with the square root of its length."""

import math

import jax
import jax.numpy as jnp

from maml_jax.inner.meta_gradients import StepFn
from maml_jax.types import Array, PyTree

# From this many steps on, √K pieces are checkpointed unless the user says otherwise.
MANY_STEPS = 32


def checkpointed_scan(
    step: StepFn, carry: PyTree, steps: Array, pieces: int | None
) -> tuple[PyTree, PyTree]:
    """jax.lax.scan that keeps only the carries between pieces, and recomputes what lies within.

    With √K pieces, the backward pass holds the residuals of about 2√K steps instead of K.

    Args:
      step: (carry, k) -> (carry, outputs).
      carry: the first one.
      steps: [K].
      pieces: number of pieces; None takes √K from `MANY_STEPS` steps on, and 1 below.

    References:
      Chen, Xu, Zhang, Guestrin, Training deep nets with sublinear memory cost, 2016,
      arXiv:1604.06174.
    """
    number = len(steps)
    if pieces is None:
        pieces = math.isqrt(number) if number >= MANY_STEPS else 1
    pieces = min(pieces, number)
    if pieces <= 1:
        return jax.lax.scan(step, carry, steps)

    def piece(carry: PyTree, steps: Array) -> tuple[PyTree, PyTree]:
        return jax.lax.scan(step, carry, steps)

    piece = jax.checkpoint(piece, prevent_cse=False)
    length = number // pieces
    head = steps[: length * pieces].reshape(pieces, length)
    carry, outputs = jax.lax.scan(piece, carry, head)
    outputs = jax.tree.map(lambda of: of.reshape(-1, *of.shape[2:]), outputs)
    if number % pieces:
        carry, more = piece(carry, steps[length * pieces :])
        outputs = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), outputs, more)
    return carry, outputs
