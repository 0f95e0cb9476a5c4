"""Learned fields without a gradient are refused; what has no derivative trains along."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maml_jax import (
    Gates,
    InnerLoop,
    LearnedLengths,
    MetaParams,
    Objective,
    TrainStep,
    init_state,
    multi_step_weights,
    optax_outer,
    outer_chain,
    sgd,
)
from maml_jax.inner.optimizers import heavy_ball
from maml_jax.meta.outer import OuterStep, keep_within
from tests.meta.problems import bowl, sample_point

GATES = Gates("ramp", num_steps=2)
META = MetaParams(
    jnp.ones(2), {"": jnp.full(2, 1.5)}, jnp.asarray(0.1), {"momentum": jnp.asarray(0.5)}
)
GATED: dict[str, Any] = {"gates": GATES.soft()}
REPTILE: dict[str, Any] = {"meta_gradient": "reptile", **GATED}
IMPLICIT: dict[str, Any] = {"meta_gradient": "implicit", "proximal": 1.0, **GATED}


def meta_step(
    loop: dict[str, Any], learned: Any, meta: MetaParams = META, only: Any = MetaParams._fields
) -> Any:
    """The state after one meta-step; `learned` are fields, or an outer step."""
    inner_loop = InnerLoop(bowl, **{"optimizer": heavy_ball, "num_steps": 2, **loop})
    outer = learned
    if not isinstance(outer, OuterStep):
        outer = optax_outer(outer_chain(dict.fromkeys(learned, optax.sgd(0.1))))
    step = TrainStep(sample_point, Objective(inner_loop, bowl), outer, learned=only)
    return step(init_state(meta, outer, jax.random.key(0)), jnp.arange(2))[0]


ALL = MetaParams._fields
REFUSED = {
    "reptile and step sizes": (REPTILE, ("init", "step_sizes"), "'step_sizes' .* reptile diff"),
    "reptile and lengths": (REPTILE, ("lengths",), "'lengths' .* reptile differentiates"),
    "implicit and a momentum": (IMPLICIT, ("optimizer",), "'optimizer' .* implicit diff"),
    "all fields": (REPTILE, optax_outer(optax.sgd(0.1)), "'lengths' is learned, but has no"),
    "no step": ({"num_steps": 0, **GATED}, ("step_sizes",), "num_steps=0 takes no step"),
    "hard gates": ({"gates": GATES.hard}, ("lengths",), "the gates have no derivative"),
    "an unused momentum": ({"optimizer": sgd, **GATED}, ("optimizer",), "does not depend on it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_learned_field_without_a_gradient_is_refused(name: str) -> None:
    loop, learned, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: meta_step(loop, learned))


def test_a_learned_field_that_is_empty_is_refused() -> None:
    with pytest.raises(ValueError, match=r"MetaParams\.lengths is empty"):
        jax.eval_shape(lambda: meta_step({}, ("lengths",), META._replace(lengths=())))


def test_what_is_not_learned_needs_no_gradient() -> None:
    """Also if it is named where learning is left to the outer step."""
    every = optax_outer(optax.sgd(0.1))
    unknown = every._replace(learned=None)
    for outer, only in ((every, ("init",)), (unknown, ALL)):
        jax.eval_shape(lambda of=outer, only=only: meta_step(REPTILE, of, only=only))
    jax.eval_shape(lambda: meta_step(GATED, ALL))
    with pytest.raises(ValueError, match="'lengths' is learned"):
        jax.eval_shape(lambda: meta_step(REPTILE, unknown, only=("lengths",)))


@pytest.mark.parametrize("meta_gradient", ["reptile", "implicit"])
@pytest.mark.parametrize(
    ("name", "value"),
    [("step_weights", multi_step_weights(2, 1)), ("lengths", LearnedLengths(GATES))],
)
def test_objectives_without_a_gradient_are_refused(
    meta_gradient: str, name: str, value: Any
) -> None:
    loop = InnerLoop(bowl, num_steps=2, meta_gradient=meta_gradient, proximal=1.0)
    with pytest.raises(ValueError, match=f"{name} would have no gradient with this meta_gradient"):
        Objective(loop, bowl, **{name: value})


@pytest.mark.parametrize("meta_gradient", ["exact", "reverse", "first_order", "reptile"])
def test_counters_masks_and_keys_train_along(meta_gradient: str) -> None:
    """Leaves without a derivative reach the loss and stay as they are."""
    init = {
        "w": jnp.ones(2),
        "mask": jnp.array([True, False]),
        "count": jnp.int32(3),
        "rng": jax.random.key(7),
    }

    def loss(params: Any, point: Any, key: Any) -> Any:
        noise = jax.random.normal(params["rng"], (2,)) / params["count"]
        return jnp.sum((params["w"] - point - noise) ** 2 * params["mask"]), {}

    inner_loop = InnerLoop(
        loss, num_steps=2, adapts=lambda path: path == "w", meta_gradient=meta_gradient
    )
    outer = optax_outer(outer_chain({"init": optax.adam(0.1)}, clip_norm=1.0))
    step = TrainStep(sample_point, Objective(inner_loop, loss), outer)
    state = init_state(MetaParams(init, step_sizes=0.1), outer, jax.random.key(0))
    (after, metrics) = jax.jit(lambda state: step(state, jnp.arange(3)))(state)
    assert metrics["skipped_updates"] == 0
    moved = after.meta_params.init
    np.testing.assert_array_equal(moved["w"] != 1, [True, False])
    for name in ("mask", "count"):
        np.testing.assert_array_equal(moved[name], init[name])
    assert jnp.all(jax.random.key_data(moved["rng"]) == jax.random.key_data(init["rng"]))


def test_infinite_lengths_stay_infinite() -> None:
    shorten = keep_within(0.0, 4.0)
    lengths = jnp.array([jnp.inf, -jnp.inf, 1.0])
    updates, _ = shorten.update(jnp.full(3, 5.0), shorten.init(lengths), lengths)
    np.testing.assert_array_equal(lengths + updates, [np.inf, -np.inf, 4.0])
