"""Temporary memory of meta-gradients, as stated by the compiled program."""

import jax
import jax.numpy as jnp

from maml_jax import MetaParams
from maml_jax.inner.optimizers.registry import heavy_ball, sgd
from tests.inner.problems import adapt, net_params, regression_data, regression_loss

HIDDEN, BATCH = 32, 512
PARAMS_BYTES = 4 * 2 * HIDDEN  # |θ|, float32
ACTIVATION_BYTES = 4 * BATCH * HIDDEN  # one hidden layer of the support batch


def temporary_bytes(make_optimizer, meta_gradient, num_steps, pieces):
    support = regression_data(size=BATCH)
    meta = MetaParams(net_params(HIDDEN), (), jnp.asarray(0.1), {"momentum": jnp.asarray(0.5)})

    def query_loss(meta):
        adaptation = adapt(
            regression_loss, make_optimizer, meta, support, jax.random.key(0),
            num_steps=num_steps, meta_gradient=meta_gradient, checkpoint_segments=pieces,
        )  # fmt: skip
        return regression_loss(adaptation.params, support, None)[0]

    compiled = jax.jit(jax.grad(query_loss)).lower(meta).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def bytes_per_step(make_optimizer, meta_gradient):
    """Increase of temporary memory with K, in one scan."""
    few, many = (temporary_bytes(make_optimizer, meta_gradient, k, 1) for k in (8, 40))
    return (many - few) / 32


def test_exact_keeps_states_and_gradients_but_no_activations():
    """Per step: θ_k, the momentum and the inner gradient, with a margin of one more."""
    assert bytes_per_step(heavy_ball, "exact") <= 4 * PARAMS_BYTES


def test_reverse_keeps_activations():
    assert bytes_per_step(sgd, "reverse") >= ACTIVATION_BYTES > 10 * PARAMS_BYTES


def test_long_loops_keep_pieces():
    """The residuals of 2 √K steps in place of those of K, without being asked."""
    nested, scan = (temporary_bytes(sgd, "reverse", 100, pieces) for pieces in (None, 1))
    assert scan >= 100 * ACTIVATION_BYTES
    assert nested <= scan / 4
