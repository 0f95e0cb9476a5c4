"""A halted coordinate whose gradient, direction or step size is not finite harms nothing."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maml_jax import Gates, MetaParams
from maml_jax.inner.optimizers import adam, heavy_ball, sgd
from maml_jax.types import Array
from tests.inner.problems import adapt, assert_bits_equal, assert_close

STEPS = 3
INIT = {"moves": jnp.array([0.5, -0.3]), "stays": jnp.zeros(2)}
LENGTHS = {"moves": jnp.array(3.0), "stays": jnp.array(0.0)}
HALTED = Gates("straight_through", "tensor", num_steps=STEPS)


def loss_fn(params: Any, support: Any, key: Any) -> tuple[Array, tuple[()]]:
    """The gradient of what stays is infinite at 0."""
    return jnp.sum((params["moves"] - 1.0) ** 4) + jnp.sum(jnp.sqrt(params["stays"])), ()


def query_loss(
    init: Any, lengths: Any, optimizer: Any, meta_gradient: str, **options: Any
) -> tuple[Array, Any]:
    meta_params = MetaParams(init, lengths, 0.1, {"momentum": jnp.asarray(0.5)})
    run = (loss_fn, optimizer, meta_params, None, jax.random.key(0))
    params = adapt(*run, num_steps=STEPS, meta_gradient=meta_gradient, **options).params
    return jnp.sum(params["moves"] ** 2) + jnp.sum(params["stays"]), params


@pytest.mark.parametrize("meta_gradient", ["exact", "reverse", "first_order"])
@pytest.mark.parametrize("optimizer", [sgd, heavy_ball, adam])
def test_an_infinite_gradient_of_a_halted_tensor_equals_a_frozen_tensor(
    optimizer: Callable[[Any], Any], meta_gradient: str
) -> None:
    """In value and derivative; the lengths that move get a derivative as well."""
    case = (optimizer, meta_gradient)

    def of(*differentiated: Any, **options: Any) -> Any:
        loss = lambda *args: query_loss(*args, *case, **options)  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, differentiated, has_aux=True))

    (loss, params), grads = of(0, 1, gates=HALTED.soft())(INIT, LENGTHS)
    frozen = {"adapts": lambda path: path == "moves"}
    expected, (of_init,) = of(0, **frozen)(INIT, ())
    assert_bits_equal(params["stays"], INIT["stays"])
    assert_close((loss, params), expected, rtol=1e-6, atol=1e-7)
    assert_close(grads[0], of_init, rtol=1e-5, atol=1e-6)
    assert np.isfinite(grads[1]["stays"])
    assert grads[1]["moves"] != 0


@pytest.mark.parametrize("what", ["direction", "step size"])
def test_infinite_directions_and_step_sizes_do_not_move_a_halted_coordinate(what: str) -> None:
    size = jnp.array([1.0, jnp.inf])
    divide = optax.stateless(lambda u, p: u / jnp.array([1.0, 0.0]))

    def adapted(init: Array) -> Array:
        return adapt(
            lambda params, support, key: (jnp.sum(params**2), ()),
            (lambda _: divide) if what == "direction" else sgd,
            MetaParams(init, step_sizes=0.1 if what == "direction" else 0.1 * size),
            *(None, jax.random.key(0)),
            num_steps=STEPS,
            gates=lambda lengths, params, k: jnp.array([1.0, 0.0]),
        ).params

    slopes = jax.jacobian(adapted)(jnp.ones(2))
    np.testing.assert_allclose(adapted(jnp.ones(2)), [0.8**STEPS, 1.0], rtol=1e-6)
    np.testing.assert_allclose(slopes, np.diag([0.8**STEPS, 1.0]), rtol=1e-6)
