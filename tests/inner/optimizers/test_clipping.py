"""Clipping of inner gradients."""

import chex
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import optax
import pytest

from maml_jax.inner.optimizers import clip_by_norm


def test_equals_optax_where_gradients_are_not_zero() -> None:
    grads = {"a": jnp.array([3.0, -1.0]), "b": jnp.array([[2.0]])}
    for norm in (0.5, 10.0):
        ours, theirs = (
            clip.update(grads, clip.init(grads))[0]
            for clip in (clip_by_norm(norm), optax.clip_by_global_norm(norm))
        )
        chex.assert_trees_all_close(ours, theirs, rtol=1e-6)


def test_halted_coordinates_do_not_count() -> None:
    grads, gate = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([1e9])}, {"a": 1.0, "b": 0.0}
    clipped, _ = clip_by_norm(1.0).update(grads, (), gate=gate)
    np.testing.assert_allclose(clipped["a"], [0.6, 0.8], rtol=1e-6)


def test_the_derivative_is_finite_at_a_zero_gradient_and_right_elsewhere() -> None:
    def direction(grads: jax.Array) -> jax.Array:
        return clip_by_norm(1.0).update(grads, ())[0].sum()

    np.testing.assert_array_equal(jax.grad(direction)(jnp.zeros(2)), [1.0, 1.0])
    with jax.enable_x64(True):
        jax.test_util.check_grads(direction, (jnp.array([3.0, 4.0]),), order=2)


def test_a_norm_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_norm=0\.0 is not allowed; use a positive number"):
        clip_by_norm(0.0)
