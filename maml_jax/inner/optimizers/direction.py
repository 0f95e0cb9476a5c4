"""Whether the directions of an inner optimizer point uphill, as the inner loop expects."""

import jax
import jax.numpy as jnp
import optax

from maml_jax.types import MakeOptimizer, PyTree


def points_downhill(optimizer: optax.GradientTransformation, like: PyTree) -> bool:
    """Whether the first directions for a constant gradient do, as the updates of optax optimizers.

    Args:
      optimizer: the transform.
      like: a tree of the parameters' shapes and dtypes.
    """
    ones, params = optax.tree.ones_like(like), optax.tree.zeros_like(like)  # without weight decay
    with_extra = optax.with_extra_args_support(optimizer)
    extra_args = {"gate": ones, "step_size": ones, "value": jnp.ones(()), "grad": ones}
    state, uphill = optimizer.init(params), 0.0
    for _ in range(2):  # a warm-up may begin with a step of 0
        directions, state = with_extra.update(ones, state, params, **extra_args)
        uphill += float(optax.tree.vdot(directions, ones))
    return uphill < 0


def check_direction(make_optimizer: MakeOptimizer) -> None:
    """Checks that directions point uphill, because the inner loop subtracts them.

    An optimizer that needs its hyper-parameters, or the tree of the parameters, is not checked.

    Raises:
      ValueError: they point downhill.
    """
    try:
        with jax.ensure_compile_time_eval():
            downhill = points_downhill(make_optimizer(()), jnp.zeros(2))
    except Exception:  # whatever a user's optimizer raises without what it needs
        return
    if downhill:
        raise ValueError(
            "the updates of the inner optimizer point downhill, as those of optax.sgd(0.1), but "
            "the inner loop subtracts them; use as_direction(optimizer) with step sizes of 1, or "
            "a scale_by_... transform"
        )
