"""Gates at the edges: infinite learned values, and noise that names alone decide."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maml_jax import Gates, MetaParams
from maml_jax.lengths.cost import compute_cost, mean_length_cost
from maml_jax.lengths.flops import StepCosts
from maml_jax.lengths.gates import GATES
from maml_jax.types import Array

STEPS = 3
PARAMS = {"w": jnp.zeros(3), "b": jnp.zeros(1)}
COSTS = StepCosts(9.0, {"w": 3.0, "b": 0.0}, {"w": 2.0, "b": 1.0}, {"w": 0.0, "b": 4.0})


@pytest.mark.parametrize("gate", GATES)
def test_infinite_learned_values_give_gates_without_a_derivative(gate: str) -> None:
    """Gates and costs are those of a large value; finite values beside them keep derivatives."""
    gates = Gates(gate, "channel", num_steps=STEPS)
    infinite = jnp.array([jnp.inf, -jnp.inf, 0.5])
    if gates.kind.per_step:
        infinite = jnp.broadcast_to(infinite, (STEPS, 3))
    large = jnp.where(jnp.isfinite(infinite), infinite, jnp.sign(infinite) * 1e4)

    def total(w: Array) -> tuple[Array, Any]:
        lengths = {"w": w, "b": jnp.ones((STEPS, 1) if gates.kind.per_step else 1)}

        def at_step(k: Array) -> tuple[Any, Any]:
            noisy = gates.soft(0.7, jax.random.key(1))
            return noisy(lengths, PARAMS, k)["w"], gates.hard(lengths, PARAMS, k)["w"]

        soft, hard = jax.vmap(at_step)(jnp.arange(STEPS))
        meta_params = MetaParams(PARAMS, lengths)
        costs = (mean_length_cost(gates, PARAMS), compute_cost(gates, PARAMS, COSTS))
        values = [cost(meta_params, jnp.ones(())) for cost in costs]
        return jnp.sum(soft) + sum(values), (soft, hard, values)

    gradient = jax.jit(jax.grad(total, has_aux=True))
    (grads, made), (_, expected) = gradient(infinite), gradient(large)
    assert not np.any(grads[..., :2])
    assert np.all(np.isfinite(grads[..., 2]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), made, expected)
    np.testing.assert_array_equal(made[0][:, :2], np.tile([1.0, 0.0], (STEPS, 1)))


class Layer(NamedTuple):
    """Fields that are not in alphabetical order."""

    w: Array
    b: Array


def test_noise_of_hard_concrete_depends_on_names_alone() -> None:
    """Not on the order of a dict, on jit, or on what else there is."""
    gates = Gates("hard_concrete", num_steps=4)
    params = Layer(jnp.zeros(3), jnp.zeros(3))
    noisy, k = gates.soft(1.0, jax.random.key(1)), jnp.int32(1)
    lengths = gates.init(params, 2.0, jax.random.key(0))
    made = noisy(lengths, params, k)
    assert np.any(np.asarray(made.w) != np.asarray(made.b))
    reordered = dict(reversed(lengths.items()))
    for other in (jax.jit(noisy)(lengths, params, k), noisy(reordered, params, k)):
        np.testing.assert_allclose(other.w, made.w, rtol=1e-6)
        np.testing.assert_allclose(other.b, made.b, rtol=1e-6)
    alone = noisy({"w": lengths["w"]}, {"w": params.w}, k)["w"]
    np.testing.assert_array_equal(alone, made.w)


@pytest.mark.parametrize(("given", "message"), [({}, "none"), ({"w": jnp.ones(3)}, "of w")])
def test_parameters_without_lengths_are_named(given: Any, message: str) -> None:
    gates = Gates("ramp", num_steps=2)
    with pytest.raises(ValueError, match=f"group 'b' has no values; there are values .*{message}"):
        gates.hard(given, PARAMS, jnp.int32(0))
