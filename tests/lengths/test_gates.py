"""Gates: derivatives in closed form, bounds, hard and expected lengths, and new kinds."""

import dataclasses
import itertools
from collections.abc import Callable
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maml_jax import Gates, MetaParams, sgd
from maml_jax.lengths.gates import GATES, Gate, Step, always_on, register_gate
from maml_jax.lengths.settings import LengthsSettings
from maml_jax.meta.outer import keep_within
from maml_jax.params import GRANULARITIES
from maml_jax.types import Array
from tests.inner.problems import (
    adapt,
    assert_bits_equal,
    assert_close,
    assert_moves,
    central_differences,
    float64,  # noqa: F401, a fixture
    net_params,
    regression_episode,
    regression_loss,
)
from tests.marks import slow_but

STEPS, ALPHA, TAU = 4, 0.3, 0.7
LENGTHS = [gate for gate in GATES if GATES[gate].is_length]
KEY = jax.random.key(0)
SHAPES = {"body": {"kernel": (1, 3)}, "head": {"kernel": (3, 1)}}


def fractional_lengths() -> dict[str, Array]:
    """Lengths that are neither integers nor bounds."""
    return {
        "body/kernel": jnp.array([[0.3, 1.7, 3.4]]),
        "head/kernel": jnp.array([[2.2], [0.6], [3.9]]),
    }


def learned_values(gate: str) -> dict[str, Array]:
    if gate == "binary":
        return {name: value - 2.0 for name, value in fractional_lengths().items()}
    if gate == "survival":
        shapes = {"body/kernel": (1, 3), "head/kernel": (1, 1)}
        return {
            name: jax.random.normal(jax.random.fold_in(KEY, index), (STEPS, *shape)) + 1
            for index, (name, shape) in enumerate(shapes.items())
        }
    return fractional_lengths()


def all_lengths(length: float) -> dict[str, Array]:
    return jax.tree.map(lambda x: jnp.full_like(x, length), fractional_lengths())


def gates_of(gate: str) -> Gates:
    granularity = "channel" if GATES[gate].per_step else "parameter"
    return Gates(gate, granularity, num_steps=STEPS)


def query_loss(kind: Gates, gates: Callable, values: dict[str, Array]) -> Array:
    meta_params = MetaParams(net_params(), lengths=values, step_sizes=ALPHA)
    support, query = regression_episode(KEY)
    adapted = adapt(regression_loss, sgd, meta_params, support, KEY, num_steps=STEPS, gates=gates)
    return regression_loss(adapted.params, query, KEY)[0]


def sensitivities(gates_at: Callable[[int], dict[str, Array]]) -> list[dict[str, Array]]:
    """∂L/∂m_k = −α u_k λ_{k+1}, by the recursion λ_k = λ_{k+1} − α H_k (m_k ∘ λ_{k+1})."""
    support, query = regression_episode(KEY)

    def gradient(params: dict) -> dict:
        return jax.grad(lambda p: regression_loss(p, support, KEY)[0])(params)

    states, directions = [net_params()], []
    for k in range(STEPS):
        directions.append(gradient(states[-1]))
        states.append(
            jax.tree.map(lambda p, m, u: p - ALPHA * m * u, states[-1], gates_at(k), directions[-1])
        )
    adjoint = jax.grad(lambda p: regression_loss(p, query, KEY)[0])(states[-1])
    result = []
    for k in reversed(range(STEPS)):
        result.append(jax.tree.map(lambda u, lam: -ALPHA * u * lam, directions[k], adjoint))
        gated = jax.tree.map(jnp.multiply, gates_at(k), adjoint)
        curved = jax.jvp(gradient, (states[k],), (gated,))[1]
        adjoint = jax.tree.map(lambda lam, h: lam - ALPHA * h, adjoint, curved)
    return result[::-1]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def derivative(gate: str, length: np.ndarray, k: int) -> np.ndarray:
    """∂m_k/∂κ, worked out by hand."""
    s = sigmoid((length - k - 0.5) / TAU)
    if gate in ("ramp", "straight_through_ramp"):
        return ((k <= length) & (length < k + 1)).astype(float)
    if gate in ("sigmoid", "straight_through"):
        return s * (1 - s) / TAU
    if gate == "binary":
        return np.full(length.shape, 0.5)
    inside = (1.2 * s - 0.1 > 0) & (1.2 * s - 0.1 < 1)
    return inside * 1.2 * s * (1 - s) / TAU


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("gate", [name for name in GATES if name != "survival"])
def test_the_gradient_of_lengths_equals_its_closed_form(gate: str) -> None:
    kind, values = gates_of(gate), learned_values(gate)
    gates = kind.soft(TAU)
    grads = jax.jit(jax.grad(lambda v: query_loss(kind, gates, v)))(values)
    by_gate = sensitivities(lambda k: gates(values, net_params(), jnp.int32(k)))
    for name, layer in (("body/kernel", "body"), ("head/kernel", "head")):
        expected = sum(
            derivative(gate, np.asarray(values[name]), k) * np.asarray(by_gate[k][layer]["kernel"])
            for k in range(STEPS)
        )
        assert_close(grads[name], expected, rtol=1e-9)
    assert_moves(grads)


@pytest.mark.usefixtures("float64")
def test_the_gradient_of_survival_logits_equals_its_closed_form() -> None:
    """∂m_k/∂ℓ_j = m_k (1 − σ(ℓ_j)) for j ≤ k, else 0, with one logit per step and channel."""
    kind, values = gates_of("survival"), learned_values("survival")
    gates = kind.soft()
    grads = jax.grad(lambda v: query_loss(kind, gates, v))(values)
    by_gate = sensitivities(lambda k: gates(values, net_params(), jnp.int32(k)))
    for name, layer in (("body/kernel", "body"), ("head/kernel", "head")):
        on = sigmoid(np.asarray(values[name]))
        alive = np.cumprod(on, axis=0)
        summed = np.stack([np.asarray(by[layer]["kernel"]).sum(0, keepdims=True) for by in by_gate])
        for j in range(STEPS):
            assert_close(grads[name][j], (summed * alive)[j:].sum(0) * (1 - on[j]), rtol=1e-9)
    assert_moves(grads)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("gate", "noisy"),
    slow_but(
        [("survival", False), ("hard_concrete", True)],  # the others have a closed form above
        itertools.product(["ramp", "sigmoid", "survival", "hard_concrete"], [False, True]),
    ),
)
def test_the_gradient_of_lengths_equals_finite_differences(gate: str, noisy: bool) -> None:
    kind, values = gates_of(gate), learned_values(gate)
    gates = kind.soft(TAU, jax.random.key(5) if noisy else None)

    def loss(values: dict[str, Array]) -> Array:
        return query_loss(kind, gates, values)

    grads = jax.jit(jax.grad(loss))(values)
    assert_close(grads, central_differences(loss, values), rtol=1e-6, atol=1e-9)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads)) > 1e-4


@pytest.mark.usefixtures("float64")
def test_integral_ramp_lengths_equal_a_plain_loop_per_parameter() -> None:
    lengths = {
        "body/kernel": jnp.array([[0.0, 1.0, 4.0]]),
        "head/kernel": jnp.array([[2.0], [3.0], [0.0]]),
    }
    kind = gates_of("ramp")
    support, query = regression_episode(KEY)
    params = net_params()
    for k in range(STEPS):
        grads = jax.grad(lambda p: regression_loss(p, support, KEY)[0])(params)
        for layer in params:
            on = k < lengths[f"{layer}/kernel"]
            moved = params[layer]["kernel"] - ALPHA * grads[layer]["kernel"]
            params[layer] = {"kernel": jnp.where(on, moved, params[layer]["kernel"])}
    plain = regression_loss(params, query, KEY)[0]
    assert_close(query_loss(kind, kind.soft(), lengths), plain)
    assert_close(query_loss(kind, kind.hard, lengths), plain)


@pytest.mark.parametrize("gate", [name for name in GATES if name not in ("ramp", "sigmoid")])
@pytest.mark.parametrize("num_steps", [1, 100])
@pytest.mark.parametrize("start", [0.0, 1.0])
def test_learned_values_at_both_bounds_have_a_gradient(
    gate: str, num_steps: int, start: float
) -> None:
    """Σ_k of the gates, with noise if they have some, depends on the learned values."""
    granularity = "channel" if GATES[gate].per_step else "parameter"
    kind = Gates(gate, granularity, num_steps=num_steps)
    values = kind.init(net_params(), start * num_steps, KEY)
    low, high = kind.bounds
    values = jax.tree.map(lambda v: jnp.clip(v, low, high), values)

    def total(values: dict[str, Array]) -> Array:
        gates = kind.soft(1.0, KEY)
        steps = jax.vmap(lambda k: gates(values, net_params(), k))(jnp.arange(num_steps))
        return jnp.sum(jax.flatten_util.ravel_pytree(steps)[0])

    for leaf in jax.tree.leaves(jax.jit(jax.grad(total))(values)):
        assert np.abs(leaf).max() > 1e-3
    if gate != "binary":
        lengths = jax.tree.leaves(kind.hard_lengths(values))
        assert all(np.all(length == start * num_steps) for length in lengths)


@pytest.mark.parametrize("gate", [name for name in GATES if name.startswith(("str", "bin"))])
def test_straight_through_gates_are_the_hard_gates(gate: str) -> None:
    kind, values = gates_of(gate), learned_values(gate)
    for k in range(STEPS):
        soft = kind.soft(TAU)(values, net_params(), jnp.int32(k))
        assert_bits_equal(soft, kind.hard(values, net_params(), jnp.int32(k)))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("gate", ["ramp", "straight_through_ramp"])
def test_lengths_at_both_bounds_have_a_meta_gradient(gate: str) -> None:
    kind = gates_of(gate)
    gradient = jax.jit(jax.grad(lambda v: query_loss(kind, kind.soft(), v)))
    inside = {0.0: 1e-6, float(STEPS): STEPS - 1e-6}
    for bound, near in inside.items():
        at, close = (gradient(all_lengths(length)) for length in (bound, near))
        assert_moves(at)
        if gate == "ramp":  # the one-sided derivative that points inwards
            assert_close(at, close, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gate", ["ramp", "straight_through", "straight_through_ramp"])
def test_a_length_of_zero_freezes_bit_for_bit_and_can_grow_again(gate: str) -> None:
    """Gradient descent on κ from 0 revives a parameter whose adaptation lowers the query loss."""
    kind = Gates(gate, "parameter", num_steps=STEPS)
    params, lengths = {"w": jnp.array([0.1, -0.7])}, {"w": jnp.zeros(2)}

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def loss(lengths: dict[str, Array]) -> tuple[Array, Array]:
        adapted = adapt(
            lambda p, target, key: (0.5 * jnp.sum((p["w"] - target) ** 2), ()),
            *(sgd, MetaParams(params, lengths=lengths, step_sizes=0.5), jnp.ones(2), KEY),
            num_steps=STEPS,
            gates=kind.soft(),
        ).params
        return jnp.sum((adapted["w"] - 1) ** 2), adapted

    assert_bits_equal(loss(lengths)[0][1], params)
    outer = optax.chain(optax.sgd(0.5), keep_within(*kind.bounds))
    for _ in range(3):
        grads = loss(lengths)[1]
        lengths = optax.apply_updates(lengths, outer.update(grads, outer.init(lengths), lengths)[0])
    assert np.all(np.asarray(lengths["w"]) > 0.5)


def test_binary_equals_sparse_maml_worked_out_by_hand() -> None:
    """One weight, L_in = ½ (w − 1)², L_out = ½ w², θ = 0.5, α = 0.2, one step, first order."""
    kind = Gates("binary", "parameter", num_steps=1)
    for logit, adapted in ((0.3, 0.5 + 0.2 * 0.5), (-0.3, 0.5)):

        def loss(values: dict[str, Array]) -> Array:
            meta_params = MetaParams({"w": jnp.array([0.5])}, values, 0.2)
            moved = adapt(
                lambda p, support, key: (0.5 * jnp.sum((p["w"] - 1) ** 2), ()),
                *(sgd, meta_params, None, KEY),
                num_steps=1,
                gates=kind.soft(),
                meta_gradient="first_order",
            ).params["w"]
            return 0.5 * jnp.sum(moved**2)

        value, grads = jax.value_and_grad(loss)({"w": jnp.array([logit])})
        np.testing.assert_allclose(value, 0.5 * adapted**2, rtol=1e-6)
        # ∂L/∂x = ½ · (−α g) · φ with g = −0.5, where ½ is sparse-MAML's ∂m/∂x.
        np.testing.assert_allclose(grads["w"], [0.5 * 0.2 * 0.5 * adapted], rtol=1e-6)


@pytest.mark.parametrize("gate", GATES)
def test_gates_never_increase_and_hard_gates_are_zero_or_one(gate: str) -> None:
    kind, values = gates_of(gate), learned_values(gate)
    for gates in (kind.soft(TAU), kind.soft(TAU, jax.random.key(3)), kind.hard):
        at = [jax.tree.leaves(gates(values, net_params(), jnp.int32(k))) for k in range(STEPS)]
        for earlier, later in itertools.pairwise(at):
            for a, b in zip(earlier, later, strict=True):
                assert np.all((b >= 0) & (b <= a) & (a <= 1))
    assert {float(x) for step in at for leaf in step for x in np.ravel(leaf)} <= {0.0, 1.0}


@pytest.mark.parametrize("gate", GATES)
def test_hard_lengths_count_the_steps_of_the_hard_gates(gate: str) -> None:
    kind, values = gates_of(gate), learned_values(gate)
    counted = sum(
        jax.tree.leaves(kind.hard(values, net_params(), jnp.int32(k)))[0] for k in range(STEPS)
    )
    lengths = kind.hard_lengths(values)["body/kernel"]
    chex.assert_trees_all_equal(lengths, counted)
    if gate in LENGTHS:
        np.testing.assert_array_equal(lengths, np.floor(np.asarray(values["body/kernel"]) + 0.5))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("granularity", slow_but(["channel", "parameter"], GRANULARITIES))
def test_every_granularity_starts_at_the_initial_length_and_broadcasts(
    gate: str, granularity: str
) -> None:
    if GATES[gate].per_step and granularity == "parameter":
        with pytest.raises(ValueError, match="stores 4 logits per group"):
            Gates(gate, granularity, num_steps=STEPS)
        return
    kind = Gates(gate, granularity, num_steps=STEPS)
    values = kind.init(net_params(), 2.0, KEY)
    gates = kind.soft()(values, net_params(), jnp.int32(0))
    jax.tree.map(
        lambda gate, p: chex.assert_equal(jnp.broadcast_shapes(gate.shape, p.shape), p.shape),
        *(gates, net_params()),
    )
    number = {"layer": 2, "global": 1, "tensor": 2, "channel": 4, "parameter": 6}[granularity]
    chex.assert_equal(sum(v.size for v in kind.hard_lengths(values).values()), number)
    if gate in LENGTHS:
        assert all(np.all(v == 2) for v in kind.hard_lengths(values).values())
    if gate == "survival":
        lengths = kind.expected_lengths(values)
        np.testing.assert_allclose(jax.tree.leaves(lengths)[0], 2.0, rtol=1e-4)


def test_the_share_of_masks_that_are_on_starts_at_the_length() -> None:
    params = {"w": jnp.zeros((30, 40)), "b": jnp.zeros(40)}
    for length, share in ((5.0, 0.5), (8.0, 0.8)):
        kind = Gates("binary", "parameter", num_steps=10)
        values = kind.init(params, length, KEY)
        assert abs(float(jnp.mean(values["w"] > 0)) - share) < 0.05
    chex.assert_shape(values["w"], (30, 40))


@pytest.mark.usefixtures("float64")
def test_hard_concrete_gates_are_on_with_the_stated_probability() -> None:
    kind, values = gates_of("hard_concrete"), learned_values("hard_concrete")
    keys = jax.random.split(KEY, 4_000)

    def draw(key: Array, k: Array) -> Array:
        return kind.soft(TAU, key)(values, net_params(), k)["body"]["kernel"] > 0

    for k in map(jnp.int32, range(STEPS)):
        measured = jnp.mean(jax.vmap(draw, (0, None))(keys, k), axis=0)
        stated = kind.probabilities_on(values, k, TAU)["body/kernel"]
        np.testing.assert_allclose(measured, stated, atol=0.03)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("gate", GATES)
def test_expected_lengths_equal_sums_over_steps_in_value_and_gradient(gate: str) -> None:
    kind, values = gates_of(gate), learned_values(gate)

    def total(values: dict[str, Array]) -> Array:
        return sum(v.sum() for v in kind.expected_lengths(values, TAU).values())

    def plain(values: dict[str, Array]) -> Array:
        on = [kind.probabilities_on(values, jnp.int32(k), TAU) for k in range(STEPS)]
        return sum(leaf.sum() for leaf in jax.tree.leaves(on))

    assert_close(total(values), plain(values))
    assert_close(jax.grad(total)(values), jax.grad(plain)(values))
    assert_moves(jax.grad(total)(values))


@pytest.mark.usefixtures("float64")
def test_all_on_equals_maml_and_all_halted_equals_zero_shot() -> None:
    kind = gates_of("ramp")
    for length, expected in (
        (STEPS, query_loss(kind, always_on, {})),
        (0, regression_loss(net_params(), regression_episode(KEY)[1], KEY)[0]),
    ):
        assert_close(query_loss(kind, kind.soft(), all_lengths(length)), expected)


def test_wrong_names_and_lengths_are_named() -> None:
    with pytest.raises(ValueError, match="gate 'step' is unknown; choose from ramp, sigmoid, "):
        Gates("step", num_steps=3)
    with pytest.raises(ValueError, match=r"granularity='filter' is unknown; choose from parameter"):
        Gates("ramp", "filter", num_steps=3)
    with pytest.raises(ValueError, match=r"initial length 5 is outside \[0, 4\]"):
        gates_of("ramp").init(net_params(), 5, KEY)
    with pytest.raises(ValueError, match="num_steps=0; use 1 or more"):
        Gates("ramp", num_steps=0)


def test_a_registered_gate_can_be_used_in_configs_and_in_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(GATES, "_entries", dict(GATES))

    def square(length: Array, step: Step) -> Array:
        return jnp.clip(length - step.k, 0, 1) ** 2

    register_gate("square", Gate(square))
    (rule,) = (
        field.metadata["rule"]
        for field in dataclasses.fields(LengthsSettings)
        if field.name == "gate"
    )
    assert rule.holds("square")
    lengths = Gates("square", "tensor", num_steps=3).init({"w": jnp.zeros(2)}, 2.0, KEY)
    assert float(Gates("square", "tensor", num_steps=3).hard_lengths(lengths)["w"]) == 2
    with pytest.raises(ValueError, match="the gate 'ramp' is part of maml_jax"):
        register_gate("ramp", Gate(square))
