"""What the inner loop cannot do is refused, and the message names it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maml_jax import MetaParams, as_direction
from maml_jax.inner.optimizers import sgd
from tests.inner.problems import adapt, net_params

NESTED = {"a": {"b": jnp.ones(2)}, "c": jnp.ones(2)}


def sum_of_squares(params: Any, support: Any, key: Any) -> Any:
    floats = [of for of in jax.tree.leaves(params) if jnp.issubdtype(of.dtype, jnp.floating)]
    return sum(jnp.sum(leaf**2) for leaf in floats), ()


@pytest.mark.parametrize(
    ("init", "adapts", "message"),
    [
        (NESTED, lambda path: path == "d", "selects none of the parameters; they are a/b, c"),
        ({**NESTED, "a/b": jnp.ones(1)}, None, "two leaves have the path 'a/b'"),
        ({**NESTED, "steps": jnp.int32(3)}, None, "'steps' of type int32 cannot adapt"),
        ({**NESTED, "mask": jnp.array([True])}, None, "'mask' of type bool cannot adapt"),
        ({**NESTED, "rng": jax.random.key(0)}, None, r"'rng' of type key<fry> cannot adapt"),
    ],
)
def test_parameters_that_cannot_adapt_are_named(init: Any, adapts: Any, message: str) -> None:
    options = {} if adapts is None else {"adapts": adapts}
    with pytest.raises(ValueError, match=message):
        adapt(
            sum_of_squares,
            sgd,
            MetaParams(init, step_sizes=0.1),
            None,
            None,
            num_steps=1,
            **options,
        )


LINE_SEARCHES = {
    "backtracking": optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5)),
    "zoom": optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(5)),
    "lbfgs": optax.lbfgs(),
}


@pytest.mark.parametrize("name", LINE_SEARCHES)
def test_line_searches_are_refused(name: str) -> None:
    optimizer = as_direction(LINE_SEARCHES[name])
    with pytest.raises(ValueError, match="as line searches do"):
        adapt(
            sum_of_squares,
            optimizer,
            MetaParams(NESTED, step_sizes=1.0),
            None,
            jax.random.key(0),
            num_steps=1,
        )


@pytest.mark.parametrize("meta_gradient", ["reptile", "implicit"])
def test_what_a_monitor_sees_has_no_silent_zero_gradient(meta_gradient: str) -> None:
    def monitored(init: Any) -> Any:
        options = {"num_steps": 2, "meta_gradient": meta_gradient, "proximal": 1.0}
        run = (sum_of_squares, sgd, MetaParams(init, step_sizes=0.1), None, jax.random.key(0))
        watched = adapt(*run, **options, monitor=lambda p, k: sum_of_squares(p, None, None)[0])
        return watched.monitored[-1], sum_of_squares(watched.params, None, None)[0]

    with pytest.raises(ValueError, match="not what a monitor sees"):
        jax.grad(lambda init: monitored(init)[0])(net_params())
    gradient, value = jax.grad(lambda init: monitored(init)[::-1], has_aux=True)(net_params())
    assert np.isfinite(value)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
