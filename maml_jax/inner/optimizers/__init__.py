"""Inner optimizers: optax transforms that map gradients to directions.

A `scale_by_*` transform maps the gradient g_k to a direction u_k, and the inner loop then takes the
step θ_{k+1} = θ_k − α_k m_k u_k, with step sizes α_k and gates m_k. They are ordinary optax
transforms: pure functions that are differentiable with respect to gradients and hyper-parameters.
Hyper-parameters may be traced arrays, and a momentum may be a tree that broadcasts to the
parameters.

Outside the inner loop, chain a transform with a learning rate. Transforms that set their own step
size (Chebyshev, Barzilai-Borwein and Anderson) only need their sign changed:

>>> import jax, optax
>>> import jax.numpy as jnp
>>> from maml_jax.inner.optimizers import scale_by_barzilai_borwein, scale_by_ogm
>>> for optimizer in (
...     optax.chain(scale_by_ogm(10), optax.scale_by_learning_rate(0.1)),
...     optax.chain(scale_by_barzilai_borwein(0.1), optax.scale(-1.0)),
... ):
...     params = jnp.array([1.0, -1.0])
...     state = optimizer.init(params)
...     for _ in range(10):
...         grads = jax.grad(lambda x: x @ x)(params)
...         updates, state = optimizer.update(grads, state, params)
...         params = optax.apply_updates(params, updates)
...     print(bool(jnp.all(jnp.abs(params) < 0.1)))
True
True

The inner loop passes three arguments to `update`, all of them optional:

- `gate`: m_k, a tree like the gradients whose leaves broadcast to theirs.
- `step_size`: α_k, a tree of the same form.
- `value`: [], the loss at the current parameters, including the proximal term.

A coordinate whose gate is 0 is halted. Halted coordinates do not influence the direction of the
others, except in `adaptive_restart` by value, because they are part of the loss. Transforms that
work coordinate by coordinate (momentum and Chebyshev methods) keep updating the state of a halted
coordinate, which has no effect any more. Transforms with inner products over coordinates leave
halted coordinates out of the current gradient and of their memory, and they use the movement
θ_k − θ_{k−1} that really took place.

OGM's last step and the Chebyshev step sizes are made for a fixed number of steps T, the number of
steps of the inner loop. A coordinate that halts earlier has taken only some of the factors of their
polynomial. This increases the loss of OGM by a factor of 2 at most, and that of the Chebyshev step
sizes without limit (see `python -m experiments.benchmarks.quadratics`). The Chebyshev
semi-iteration is optimal after every number of steps.
"""

from maml_jax.inner.optimizers.chebyshev import scale_by_chebyshev, scale_by_chebyshev_steps
from maml_jax.inner.optimizers.clipping import clip_by_norm
from maml_jax.inner.optimizers.curvature import curvature_matrices, scale_by_curvature
from maml_jax.inner.optimizers.history import (
    scale_by_anderson,
    scale_by_barzilai_borwein,
    scale_by_conjugate_gradient,
)
from maml_jax.inner.optimizers.momentum import (
    adaptive_restart,
    scale_by_heavy_ball,
    scale_by_nesterov,
    scale_by_nesterov_sequence,
    scale_by_nesterov_strongly_convex,
    scale_by_ogm,
)
from maml_jax.inner.optimizers.registry import (
    INNER_OPTIMIZERS,
    adam,
    as_direction,
    heavy_ball,
    initial_hyper_params,
    learned_values,
    make_inner_optimizer,
    nesterov,
    register_inner_optimizer,
    sgd,
)

__all__ = [
    "INNER_OPTIMIZERS",
    "adam",
    "adaptive_restart",
    "as_direction",
    "clip_by_norm",
    "curvature_matrices",
    "heavy_ball",
    "initial_hyper_params",
    "learned_values",
    "make_inner_optimizer",
    "nesterov",
    "register_inner_optimizer",
    "scale_by_anderson",
    "scale_by_barzilai_borwein",
    "scale_by_chebyshev",
    "scale_by_chebyshev_steps",
    "scale_by_conjugate_gradient",
    "scale_by_curvature",
    "scale_by_heavy_ball",
    "scale_by_nesterov",
    "scale_by_nesterov_sequence",
    "scale_by_nesterov_strongly_convex",
    "scale_by_ogm",
    "sgd",
]
