"""Surrogates on an enumerated tabular problem, whose derivatives are known exactly."""

import itertools
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maml_jax.rl.policy import Categorical
from maml_jax.rl.surrogates import SURROGATES, clipped
from tests.inner.problems import float64  # noqa: F401, a fixture

HORIZON, STATES, ACTIONS = 3, 3, 2
pytestmark = pytest.mark.usefixtures("float64")


@cache
def paths() -> dict[str, Any]:
    """Every path of states and actions from state 0, with its probability under the dynamics."""
    rng = np.random.default_rng(0)
    dynamics = rng.dirichlet(np.ones(STATES), (STATES, ACTIONS))
    table, baseline = rng.normal(size=(STATES, ACTIONS)), rng.normal(size=(STATES, HORIZON))
    every = itertools.product(
        itertools.product([0], *[range(STATES)] * (HORIZON - 1)),
        itertools.product(range(ACTIONS), repeat=HORIZON),
    )
    states, actions = (np.array(of) for of in zip(*every, strict=True))
    moves = dynamics[states[:, :-1], actions[:, :-1], states[:, 1:]].prod(1)
    rewards = table[states, actions]
    to_go = rewards[:, ::-1].cumsum(1)[:, ::-1]
    return {
        "states": states, "actions": actions, "moves": moves, "returns": rewards.sum(1),
        "advantages": to_go, "with_baseline": to_go - baseline[states, np.arange(HORIZON)],
        "logits": rng.normal(size=STATES * ACTIONS),
    }  # fmt: skip


def log_probs(flat: Any) -> Any:
    """ℓ [paths, H]."""
    of = paths()
    logits = flat.reshape(STATES, ACTIONS)[of["states"]]
    return Categorical(logits).log_prob(of["actions"])


def probabilities(flat: Any) -> Any:
    return paths()["moves"] * jnp.exp(log_probs(flat).sum(1))


def expected(name: str, kind: str) -> Any:
    """The gradient and the Hessian of the expected surrogate."""
    of = paths()
    flat = jnp.asarray(of["logits"])
    weights, acted = probabilities(flat), log_probs(flat)

    def surrogate(flat: Any) -> Any:
        terms = SURROGATES[name](log_probs(flat) - acted, of[kind])
        return jnp.sum(weights * terms.sum(1))

    return jax.jit(lambda f: (surrogate(f), jax.grad(surrogate)(f), jax.hessian(surrogate)(f)))(
        flat
    )


@cache
def true_derivatives() -> Any:
    def value(flat: Any) -> Any:
        return jnp.sum(probabilities(flat) * paths()["returns"])

    flat = jnp.asarray(paths()["logits"])
    return jax.jit(lambda f: (jax.grad(value)(f), jax.hessian(value)(f)))(flat)


@cache
def lacking(kind: str) -> Any:
    """What the Hessians lack: products of scores of one step, and of two different ones."""
    flat = jnp.asarray(paths()["logits"])
    scores = jax.jit(jax.jacobian(log_probs))(flat)  # [paths, H, θ]
    before = jnp.cumsum(scores, 1) - scores
    weighted = (probabilities(flat)[:, None] * paths()[kind])[..., None] * scores
    of_two = jnp.einsum("pti,ptj->ij", weighted, before)
    return jnp.einsum("pti,ptj->ij", weighted, scores), of_two + of_two.T


@pytest.mark.parametrize("kind", ["advantages", "with_baseline"])
@pytest.mark.parametrize("name", SURROGATES)
def test_gradients_are_exact_and_hessians_lack_what_is_derived(name: str, kind: str) -> None:
    value, gradient, hessian = expected(name, kind)
    true_gradient, true_hessian = true_derivatives()
    of_one, of_two = lacking(kind)
    bias = {"dice": 0 * of_one, "lvc": of_two, "log": of_one + of_two}[name]
    assert value == 0
    np.testing.assert_allclose(gradient, true_gradient, rtol=0, atol=1e-12)
    np.testing.assert_allclose(hessian, true_hessian - bias, rtol=0, atol=1e-10)
    assert (name == "dice") == (np.abs(bias).max() < 0.01)


def test_clipped_ratios_earn_nothing_outside() -> None:
    ratios = jnp.log(jnp.array([0.5, 0.9, 1.1, 1.5]))
    np.testing.assert_allclose(clipped(0.2)(ratios, jnp.ones(4)), [-0.5, -0.1, 0.1, 0.2])
    np.testing.assert_allclose(clipped(0.2)(ratios, -jnp.ones(4)), [0.2, 0.1, -0.1, -0.5])


def test_an_unknown_estimator_is_named() -> None:
    with pytest.raises(ValueError, match="estimator 'reinforce' is unknown; choose from dice, lvc"):
        SURROGATES.find("reinforce")
