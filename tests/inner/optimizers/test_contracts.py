"""Contracts that every transform keeps, alone and in the inner loop with gates."""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maml_jax import MetaParams
from maml_jax.inner.optimizers import (
    INNER_OPTIMIZERS,
    adaptive_restart,
    as_direction,
    curvature_matrices,
    scale_by_anderson,
    scale_by_barzilai_borwein,
    scale_by_conjugate_gradient,
    scale_by_curvature,
    scale_by_heavy_ball,
    scale_by_nesterov,
    scale_by_nesterov_sequence,
)
from maml_jax.inner.optimizers.momentum import RestartState
from maml_jax.types import Adaptation, Array
from tests.inner.optimizers.methods import KEY, METHODS, OVER_COORDINATES, strong
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

STEPS = 10
# Variants of a method and more of optax: slow in the tests that take longest.
VARIANTS = ("nesterov_sequence", "restart_value", "barzilai_borwein_short", "conjugate_gradient_hs")
VARIANTS += (
    "curvature_momentum",
    "rmsprop",
    "adagrad",
    "lion",
    "ogm",
    "chebyshev_steps",
    "restart",
)
MAIN = slow_but([name for name in METHODS if name not in VARIANTS], METHODS)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", slow_but([jnp.float32], [jnp.float32, jnp.bfloat16]))
def test_contract_of_a_transform(name: str, dtype: Any) -> None:
    """dtype kept, one trace, jit equals eager, extra args ignored, vmap equals loop."""
    hyper, make, alpha = METHODS[name]
    transform = make(strong(hyper), 4)
    curvature = {"w": jnp.array([1.0, 3.0, 9.0], dtype), "b": jnp.full((), 2.0, dtype)}
    starts = [
        {"w": jnp.arange(1, 4, dtype=dtype) * scale, "b": jnp.ones((), dtype)}
        for scale in (0.5, 1.0, -0.7)
    ]
    traces: list[int] = []

    def step(params: Any, state: Any, **extra: Any) -> Any:
        traces.append(1)
        grads = jax.tree.map(jnp.multiply, curvature, params)
        value = optax.global_norm(grads)
        u, new = transform.update(grads, state, params, value=value, **extra)
        chex.assert_trees_all_equal_shapes_and_dtypes(u, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(new, state)
        return jax.tree.map(lambda p, d: (p - alpha * d).astype(dtype), params, u), new

    def run(step: Any, params: Any) -> Any:
        params = jax.tree.map(jnp.copy, params)  # donated
        state = transform.init(params)
        for link in state if type(state) is tuple else (state,):  # a chain's is a plain tuple
            assert hasattr(link, "_fields")
        for _ in range(4):
            params, state = step(params, state)
        return params

    jitted = jax.jit(step, donate_argnums=(0, 1))
    looped = [run(jitted, start) for start in starts]
    assert len(traces) == 1
    if dtype == jnp.bfloat16:
        return  # steps that cancel magnify its rounding, which jit and vmap place elsewhere
    tolerance = {"rtol": 1e-4, "atol": 1e-6}
    assert_close(run(partial(step, unknown=3), starts[0]), looped[0], **tolerance)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *starts)
    batched = jax.vmap(lambda start: run(step, start))(stacked)
    assert_close(batched, jax.tree.map(lambda *x: jnp.stack(x), *looped), **tolerance)


def adapted(name: str, meta_params: MetaParams, num_steps: int = STEPS) -> Adaptation:
    support, _ = regression_episode(KEY)
    run = (regression_loss, lambda hyper: METHODS[name][1](hyper, STEPS), meta_params)
    return adapt(*run, support, KEY, num_steps=num_steps)


def meta_loss(name: str, meta_params: MetaParams) -> Array:
    _, query = regression_episode(KEY)
    return regression_loss(adapted(name, meta_params).params, query, KEY)[0]


def takes_its_own_way(state: Any) -> bool:
    """Has restarted, or mixed an earlier direction into this one."""
    if isinstance(state, RestartState):
        return int(state.restarts) >= 1
    return not np.allclose(state.gradient["head"]["kernel"], state.direction["head"]["kernel"])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", slow_but(["adam", "chebyshev", "curvature", "anderson"], METHODS))
def test_meta_gradients_equal_finite_differences(name: str) -> None:
    hyper, _, alpha = METHODS[name]
    meta_params = MetaParams(net_params(), step_sizes=strong(alpha), optimizer=strong(hyper))
    loss = partial(meta_loss, name)
    grads = jax.jit(jax.grad(loss))(meta_params)
    numeric = jax.jit(central_differences, static_argnums=0)(loss, meta_params)
    assert_close(grads, numeric, rtol=2e-5, atol=2e-8)
    assert_moves(grads.init)
    if name.startswith(("restart", "conjugate")):
        assert takes_its_own_way(adapted(name, meta_params, 4).carry[1])
    if hyper != ():
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads.optimizer)) > 1e-6


def with_a_dead_unit(make: Callable[[Any], Any], hyper: Any, alpha: float) -> Any:
    """Meta-gradients of a ReLU network whose second unit is off for every input."""
    init = {
        "hidden": jnp.array([1.0, -1.0]),
        "bias": jnp.array([0.5, -9.0]),
        "out": jnp.array([0.7, 0.4]),
    }
    x = jnp.linspace(-1, 1, 8)

    def loss_fn(params: Any, target: Array, key: Array) -> tuple[Array, tuple[()]]:
        hidden = jax.nn.relu(x[:, None] * params["hidden"] + params["bias"])
        return jnp.mean((hidden @ params["out"] - target) ** 2), ()

    def loss(meta_params: MetaParams) -> Array:
        run = adapt(loss_fn, make, meta_params, jnp.sin(x), KEY, num_steps=STEPS)
        return loss_fn(run.params, jnp.cos(x), KEY)[0]

    meta_params = MetaParams(init, step_sizes=strong(alpha), optimizer=strong(hyper))
    return jax.jit(jax.grad(loss))(meta_params)


@pytest.mark.parametrize("name", slow_but(["adam", "conjugate_gradient_pr", "anderson"], METHODS))
def test_meta_gradients_stay_finite_behind_a_dead_relu(name: str) -> None:
    hyper, make, alpha = METHODS[name]
    chex.assert_tree_all_finite(with_a_dead_unit(lambda of: make(of, STEPS), hyper, alpha))


@pytest.mark.parametrize("compatible", [True, False])
def test_transforms_work_on_a_part_of_the_parameters(compatible: bool) -> None:
    """Under optax.partition they get a MaskedNode for the others, but gates of all or of their own.

    A coefficient or a matrix may be there for all parameters.
    """
    params = {"mine": jnp.array([0.3, -0.8]), "other": jnp.array([[0.2, 0.5]])}
    momentum = {"mine": jnp.array([0.5, 0.7]), "other": jnp.array(0.1)}
    grads, gate = jax.tree.map(lambda p: p + 1, params), jax.tree.map(jnp.ones_like, params)
    transforms = {
        "curvature": lambda of: scale_by_curvature(curvature_matrices(of)),
        "momentum": lambda of: scale_by_heavy_ball({key: momentum[key] for key in of}),
        "nesterov": lambda of: scale_by_nesterov({key: momentum[key] for key in of}),
        "restart": lambda of: adaptive_restart(scale_by_nesterov_sequence()),
        "conjugate": lambda of: scale_by_conjugate_gradient(),
        "barzilai_borwein": lambda of: scale_by_barzilai_borwein(0.1),
        "anderson": lambda of: scale_by_anderson(0.1),
    }

    def directions(transform: Any, *trees: Any) -> list[Any]:
        (params, grads, gate), made = trees, []
        state = transform.init(params)
        for size in (1.0, -0.5):
            scaled = jax.tree.map(lambda g, size=size: size * g, grads)
            u, state = transform.update(scaled, state, params, gate=gate, step_size=gate)
            made.append(u["mine"])
        return made

    for make in transforms.values():
        part = optax.partition(
            {"part": make(params), "rest": optax.identity()},
            {"mine": "part", "other": "rest"},
            mask_compatible_extra_args=compatible,
        )
        alone = ({"mine": tree["mine"]} for tree in (params, grads, gate))
        expected = directions(make({"mine": params["mine"]}), *alone)
        assert_close(directions(part, params, grads, gate), expected, rtol=1e-6)


NOT_FINITE = {
    "adam": lambda _: optax.scale_by_adam(),  # with its defaults: ours has eps_root
    "nadam": as_direction(optax.nadam(1.0)),
    "amsgrad": as_direction(optax.amsgrad(1.0)),
    "radam": as_direction(optax.radam(1.0)),
    "lamb": as_direction(optax.lamb(1.0)),
    "muon": as_direction(optax.contrib.muon(1.0)),
    "lbfgs": lambda _: optax.scale_by_lbfgs(),
}


@pytest.mark.parametrize("name", slow_but(["adam", "amsgrad"], NOT_FINITE))
def test_what_the_registry_leaves_out_has_meta_gradients_that_are_not_finite(name: str) -> None:
    assert name == "adam" or name not in INNER_OPTIMIZERS
    if name == "lbfgs":  # where all gradients are 0
        loss = lambda init: jnp.sum(  # noqa: E731
            adapt(
                lambda w, support, key: (jnp.sum(w**2), ()),
                NOT_FINITE[name],
                MetaParams(init, step_sizes=0.005),
                *(None, KEY),
                num_steps=3,
            ).params
        )
        grads = jax.grad(loss)(jnp.zeros(2))
        assert not np.isfinite(grads).all()
        return
    grads = with_a_dead_unit(NOT_FINITE[name], (), 0.005)
    assert not np.isfinite(grads.init["bias"]).all()


PLACES = {  # first step at which gates change, and what they are from then on
    "optimum": (STEPS, jnp.ones(3)),
    "halted": (2, jnp.array([0.0, 1.0, 1.0])),
    "all halted": (0, jnp.zeros(3)),
}


@pytest.mark.parametrize("name", METHODS)
def test_meta_gradients_stay_finite(name: str) -> None:
    hyper, make, alpha = METHODS[name]
    init = jnp.array([1.0, -1.0, 0.5])

    def loss_fn(params: Array, target: Array, key: Array) -> tuple[Array, tuple[()]]:
        return 0.5 * jnp.sum((params - target) ** 2), ()

    @jax.jit
    @jax.value_and_grad
    def loss(meta_params: MetaParams, target: Array, halts_at: Array, still_on: Array) -> Array:
        def gates(lengths: Any, params: Any, k: Array) -> Any:
            return jnp.where(k < halts_at, 1.0, still_on)

        run = (lambda hyper: make(hyper, STEPS), meta_params, target, KEY)
        adapted = adapt(loss_fn, *run, num_steps=STEPS, gates=gates).params
        return jnp.sum((adapted - 1.3) ** 2)

    meta_params = MetaParams(init, step_sizes=strong(alpha), optimizer=strong(hyper))
    for place, (halts_at, still_on) in PLACES.items():
        target = init if place == "optimum" else jnp.array([0.2, 0.1, -0.4])
        found = loss(meta_params, target, jnp.asarray(halts_at), still_on)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found)), place


# Wild in both directions, so that momenta turn and differences of gradients do not vanish.
SCALES = jnp.array([1.0, 1.0, 1.0, -0.2, 2.0, -0.5])


def run_gated(name: str, init: Array, gates: Any, scale: Any) -> Any:
    """Six steps on ½ Σ h w² with h = (1, 3) and, for the third coordinate, scale(k)."""
    hyper, make, alpha = METHODS[name]

    def loss_fn(seen: Any, support: Any, key: Array) -> tuple[Array, tuple[()]]:
        w, k = seen
        curvature = jnp.stack([jnp.ones(()), 3 * jnp.ones(()), scale(k)])[: w.size]
        return 0.5 * jnp.sum(curvature * w**2), ()

    return adapt(
        loss_fn,
        lambda hyper: make(hyper, 6),
        MetaParams(init, step_sizes=alpha, optimizer=strong(hyper)),
        *(None, KEY),
        num_steps=6,
        gates=lambda _, params, k: gates(k),
        at_step=lambda params, k: (params, k),
        monitor=lambda seen, k: seen[0],
    ).monitored


# A restart by value looks at the loss itself, in which halted coordinates count.
@pytest.mark.parametrize("name", [name for name in METHODS if name != "restart_value"])
def test_halted_coordinates_do_not_change_the_others(name: str) -> None:
    """The last coordinate halts at step 2, and its gradient turns wild: nothing else does."""

    @jax.jit
    def trajectory(wild: float) -> Array:
        return run_gated(
            name,
            jnp.array([1.0, -0.5, 0.7]),
            lambda k: jnp.stack([jnp.ones(()), jnp.ones(()), 1.0 * (k < 2)]),
            lambda k: 1 + wild * SCALES[k] * (k >= 2),
        )

    calm, wild = trajectory(0.0), trajectory(50.0)
    assert_bits_equal(calm[:, :2], wild[:, :2])
    assert_bits_equal(calm[2:, 2], jnp.repeat(calm[2, 2], 5))


@pytest.mark.parametrize("name", OVER_COORDINATES)
def test_coordinates_halted_from_the_start_are_as_good_as_absent(name: str) -> None:
    init = jnp.array([1.0, -0.5, 0.7])

    @jax.jit
    def both() -> tuple[Array, Array]:
        alone = run_gated(name, init[:2], lambda k: jnp.ones(2), lambda k: jnp.ones(()))
        gates = jnp.array([1.0, 1.0, 0.0])
        return alone, run_gated(name, init, lambda k: gates, lambda k: 50 * SCALES[k])

    alone, beside = both()
    assert_close(beside[:, :2], alone, rtol=1e-6)
    chex.assert_tree_all_finite(alone)


@pytest.mark.parametrize("name", OVER_COORDINATES)
def test_without_the_gate_halted_coordinates_do_change_the_others(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first test above would miss if its coordinate were too tame."""
    hyper, make, alpha = METHODS[name]

    def without_gate(hyper: Any, steps: int) -> optax.GradientTransformationExtraArgs:
        def update(updates: Any, state: Any, params: Any, gate: Any, **extra: Any) -> Any:
            return transform.update(updates, state, params, **extra)

        transform = make(hyper, steps)
        return optax.GradientTransformationExtraArgs(transform.init, update)

    monkeypatch.setitem(METHODS, name, (hyper, without_gate, alpha))
    with pytest.raises(AssertionError):
        test_halted_coordinates_do_not_change_the_others(name)


@pytest.mark.parametrize("name", OVER_COORDINATES)
def test_meta_gradients_stay_finite_close_to_the_optimum(name: str) -> None:
    hyper, make, alpha = METHODS[name]

    def loss(meta_params: MetaParams) -> Array:
        def loss_fn(params: Array, support: None, key: Array) -> tuple[Array, tuple[()]]:
            return 0.5 * jnp.sum(jnp.array([1.0, 3.0]) * params**2), ()

        run = (lambda hyper: make(hyper, 4), meta_params, None, KEY)
        return jnp.sum((adapt(loss_fn, *run, num_steps=4).params - 1.0) ** 2)

    @jax.jit
    def gradient(distance: Array) -> MetaParams:
        start = distance * jnp.array([1.0, -0.5])
        return jax.grad(loss)(MetaParams(start, (), strong(alpha), strong(hyper)))

    for distance in (1e-11, 1e-9, 1e-7):
        chex.assert_tree_all_finite(gradient(jnp.asarray(distance)))
