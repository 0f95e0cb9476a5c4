"""Meta-Curvature multiplies every axis of a tensor by its matrix."""

from functools import partial

import chex
import jax
import jax.numpy as jnp

from maml_jax.inner.optimizers import curvature_matrices, scale_by_curvature
from tests.inner.optimizers.methods import KEY
from tests.inner.problems import assert_close


def test_curvature_multiplies_every_mode() -> None:
    params = {"kernel": jnp.zeros((2, 2, 3, 4)), "bias": jnp.zeros(4)}
    matrices = curvature_matrices(params)
    chex.assert_tree_all_finite(matrices)
    assert [m.shape for m in matrices["kernel"]] == [(4, 4), (3, 3), (4, 4)]
    keys = iter(jax.random.split(KEY, 20))
    draw = partial(jax.tree.map, lambda x: jax.random.normal(next(keys), x.shape))
    matrices, grads = draw(matrices), draw(params)
    transform = scale_by_curvature(matrices)
    u, _ = transform.update(grads, transform.init(params))
    a, b, c = matrices["kernel"]
    expected = jnp.einsum("xp,yi,zo,pio->xyz", a, b, c, grads["kernel"].reshape(4, 3, 4))
    assert_close(u["kernel"].reshape(4, 3, 4), expected, rtol=1e-4, atol=1e-5)
    assert_close(u["bias"], matrices["bias"][0] @ grads["bias"], rtol=1e-4, atol=1e-5)
