"""Convolutions and pooling against those of XLA and flax."""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maml_jax.models.convolution import CONVOLUTIONS, get_convolution, lax_convolution, max_pool

SHAPES = [((7, 6), 3, 1), ((7, 6), 3, 2), ((4, 4), 3, 2), ((1, 1), 3, 1), ((5, 5), 1, 1)]


def scalar(convolve, stride):
    """A nonlinear scalar of a convolution, whose derivatives involve both arguments."""
    return lambda x, w: jnp.sum(jnp.sin(convolve(x, w, stride)))


@partial(jax.jit, static_argnums=0)
def derivatives(fn, x, w):
    """d fn/d(x, w), and d/d(x, w) of a combination of these, by reverse-over-reverse."""

    def combined(x, w):
        dx, dw = jax.grad(fn, (0, 1))(x, w)
        return jnp.sum(dx * jnp.cos(x)) + jnp.sum(dw * jnp.cos(w))

    return jax.grad(fn, (0, 1))(x, w), jax.grad(combined, (0, 1))(x, w)


@pytest.mark.parametrize(("size", "kernel", "stride"), SHAPES)
@pytest.mark.parametrize("name", sorted(set(CONVOLUTIONS) - {"lax"}))
def test_equals_lax_to_second_order(name, size, kernel, stride):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x = jnp.array(rng.normal(size=(2, *size, 3)))
        w = jnp.array(rng.normal(size=(kernel, kernel, 3, 4)))
        fn, reference = (scalar(c, stride) for c in (CONVOLUTIONS[name], lax_convolution))
        value = CONVOLUTIONS[name](x, w, stride)
        chex.assert_shape(value, (2, -(-size[0] // stride), -(-size[1] // stride), 4))
        chex.assert_trees_all_close(value, lax_convolution(x, w, stride), rtol=1e-12, atol=1e-12)
        chex.assert_trees_all_close(
            derivatives(fn, x, w),
            derivatives(reference, x, w),
            rtol=1e-10,
            atol=1e-10,
        )


@pytest.mark.parametrize("name", sorted(set(CONVOLUTIONS) - {"lax"}))
def test_forward_over_reverse_under_vmap(name):
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        x, dx = jnp.array(rng.normal(size=(2, 3, 2, 6, 6, 2)))
        w, dw = jnp.array(rng.normal(size=(2, 3, 3, 3, 2, 4)))

        def hessian_vector(convolve):
            gradient = jax.grad(scalar(convolve, 2), (0, 1))
            return jax.jit(jax.vmap(lambda x, w, dx, dw: jax.jvp(gradient, (x, w), (dx, dw))[1]))(
                x, w, dx, dw
            )

        chex.assert_trees_all_close(
            hessian_vector(CONVOLUTIONS[name]), hessian_vector(lax_convolution), rtol=1e-10
        )


def test_an_unknown_convolution_is_named():
    with pytest.raises(ValueError, match="convolution='fft' is unknown; choose from"):
        get_convolution("fft")


@pytest.mark.parametrize("size", [6, 7])
def test_max_pool_equals_flax(size):
    with jax.enable_x64(True):
        x = jnp.array(np.random.default_rng(2).normal(size=(2, size, size, 3)))

        def reference(x):
            return nn.max_pool(x, (2, 2), strides=(2, 2))

        chex.assert_trees_all_equal(max_pool(x), reference(x))
        chex.assert_trees_all_close(
            jax.grad(lambda x: jnp.sum(jnp.sin(max_pool(x))))(x),
            jax.grad(lambda x: jnp.sum(jnp.sin(reference(x))))(x),
            rtol=1e-12,
        )
