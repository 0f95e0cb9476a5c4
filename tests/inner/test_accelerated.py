"""Accelerated methods: textbook rates on quadratics, and the contract of an inner optimizer."""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import acceleration_rates
from maml_jax import MetaParams, adapt
from maml_jax.inner import accelerated as acc
from maml_jax.inner.optimizers import (
    CONSTRAINTS,
    INNER_OPTIMIZERS,
    UNSAFE,
    initial_hyper_params,
    make_inner_optimizer,
)
from maml_jax.types import Adaptation, Array
from tests.inner.problems import (
    assert_bits_equal,
    assert_close,
    assert_moves,
    central_differences,
    float64,  # noqa: F401, a fixture
    net_params,
    regression_episode,
    regression_loss,
)

KEY = jax.random.key(0)


def scale_by_full_curvature(scale: Array) -> optax.GradientTransformationExtraArgs:
    """Meta-Curvature with matrices I + scale everywhere, for parameters of any shape."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        matrices = jax.tree.map(lambda eye: eye + scale, acc.curvature_matrices(updates))
        return acc.scale_by_curvature(matrices).update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


STEPS = 10
# name -> (hyper-parameters, (hyper-parameters, T) -> transform, α)
METHODS: dict[str, tuple[Any, Callable[[Any, int], Any], float]] = {
    "heavy_ball": (0.6, lambda h, steps: acc.scale_by_heavy_ball(h), 0.05),
    "nesterov": (0.6, lambda h, steps: acc.scale_by_nesterov(h), 0.05),
    "nesterov_sequence": ((), lambda h, steps: acc.scale_by_nesterov_sequence(), 0.05),
    "nesterov_strongly_convex": (
        0.1,
        lambda h, steps: acc.scale_by_nesterov_strongly_convex(h),
        0.05,
    ),
    "ogm": ((), lambda h, steps: acc.scale_by_ogm(steps), 0.05),
    "restart": (0.9, lambda h, steps: acc.adaptive_restart(acc.scale_by_nesterov(h)), 0.1),
    "restart_value": (
        0.9,
        lambda h, steps: acc.adaptive_restart(acc.scale_by_nesterov(h), "value"),
        0.1,
    ),
    "chebyshev_steps": (
        (2.0, 30.0),
        lambda h, steps: acc.scale_by_chebyshev_steps(*h, num_steps=steps),
        1.0,
    ),
    "chebyshev": ((2.0, 30.0), lambda h, steps: acc.scale_by_chebyshev(*h), 1.0),
    "barzilai_borwein_long": (0.05, lambda h, steps: acc.scale_by_barzilai_borwein(h), 1.0),
    "barzilai_borwein_short": (
        0.05,
        lambda h, steps: acc.scale_by_barzilai_borwein(h, "short"),
        1.0,
    ),
    "conjugate_gradient_pr": ((), lambda h, steps: acc.scale_by_conjugate_gradient("pr"), 0.5),
    "conjugate_gradient_hs": ((), lambda h, steps: acc.scale_by_conjugate_gradient("hs"), 0.5),
    "anderson": (0.05, lambda h, steps: acc.scale_by_anderson(h, 3), 1.0),
    "curvature": (0.2, lambda h, steps: scale_by_full_curvature(h), 0.05),
    "curvature_momentum": (
        (0.2, 0.6),
        lambda h, steps: optax.chain(scale_by_full_curvature(h[0]), acc.scale_by_heavy_ball(h[1])),
        0.05,
    ),
    **{
        name: (
            (),
            lambda h, steps, row=INNER_OPTIMIZERS[name]: optax.with_extra_args_support(
                row.make({}, steps)
            ),
            0.005,
        )
        for name in ("adam", "rmsprop", "adagrad", "lion")
    },
}
OVER_COORDINATES = [
    name
    for name in METHODS
    if name.startswith(("restart", "barzilai", "conjugate", "anderson", "curvature"))
    and name != "restart_value"
]
CONDITIONS = (10.0, 100.0, 10_000.0)


def strong(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, float), tree)


def spectrum(condition: float, number: int = 50) -> Array:
    """Eigenvalues from 1/κ to L = 1, both in it."""
    return jnp.logspace(-np.log10(condition), 0, number)


def iterate(
    transform: Any, alpha: float, eigenvalues: Array, start: Array, num_steps: int
) -> tuple[Array, Any]:
    """Points x_0 … x_T and the states after each step, on ½ Σ h x²."""

    transform = optax.with_extra_args_support(transform)

    def step(carry: Any, _: None) -> tuple[Any, Any]:
        x, state = carry
        gradient = eigenvalues * x
        value = 0.5 * jnp.sum(eigenvalues * x**2)
        u, state = transform.update(gradient, state, x, value=value)
        return (x - alpha * u, state), (x - alpha * u, state)

    _, (points, states) = jax.lax.scan(step, (start, transform.init(start)), length=num_steps)
    return jnp.concatenate([start[None], points]), states


def spectral_radius(transform: Any, alpha: float, eigenvalues: Array) -> float:
    """Of the one-step map (x, memory) -> (x, memory), the largest over the eigenvalues."""

    def of(eigenvalue: Array) -> Array:
        template = transform.init(jnp.zeros(()))
        # Momentum methods reach their constant coefficients after a first step.
        template = transform.update(jnp.zeros(()), template, jnp.zeros(()))[1]

        def step(vector: Array) -> Array:
            state = template
            if hasattr(state, "momentum"):
                state = state._replace(momentum=vector[1])
            u, state = transform.update(eigenvalue * vector[0], state, vector[0])
            return jnp.stack([vector[0] - alpha * u, getattr(state, "momentum", jnp.zeros(()))])

        return jax.jacobian(step)(jnp.zeros(2))

    matrices = np.asarray(jax.vmap(of)(eigenvalues))
    return float(np.abs(np.linalg.eigvals(matrices)).max())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("condition", CONDITIONS)
def test_stationary_methods_contract_at_their_textbook_rate(condition: float) -> None:
    root, h = np.sqrt(condition), spectrum(condition)
    mu = 1 / condition
    heavy_rate = (root - 1) / (root + 1)
    cases = {
        "gd": (optax.identity(), 2 / (1 + mu), (condition - 1) / (condition + 1)),
        "heavy_ball": (
            acc.scale_by_heavy_ball(heavy_rate**2),
            4 / (1 + np.sqrt(mu)) ** 2,
            heavy_rate,
        ),
        "nesterov": (acc.scale_by_nesterov_strongly_convex(mu), 1.0, 1 - 1 / root),
    }
    for name, (transform, alpha, theory) in cases.items():
        rho = spectral_radius(transform, alpha, h)
        np.testing.assert_allclose(1 - rho, 1 - theory, rtol=1e-3, err_msg=name)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("condition", CONDITIONS)
def test_fista_and_ogm_stay_below_their_bounds(condition: float) -> None:
    h, num_steps = spectrum(condition), 200
    starts = jax.random.normal(KEY, (100, h.size))
    squared = np.asarray(jnp.sum(starts**2, axis=1))

    def value(x: Array) -> np.ndarray:
        return np.asarray(0.5 * jnp.sum(h * x**2, axis=-1))

    fista = acc.scale_by_nesterov_sequence()
    points, states = jax.vmap(lambda x: iterate(fista, 1.0, h, x, num_steps))(starts)
    before = points[:, 1:] + states.beta[..., None] * states.momentum  # y_T = x_T + α β m
    bound = 2 * squared[:, None] / (np.arange(1, num_steps + 1) + 1) ** 2
    assert np.all(value(before) <= bound * (1 + 1e-9))

    free = acc.scale_by_ogm(num_steps + 1)
    points, states = jax.vmap(lambda x: iterate(free, 1.0, h, x, num_steps))(starts)
    first = jax.vmap(free.init)(starts)
    for last in range(1, num_steps + 1):
        transform = acc.scale_by_ogm(last)
        at = last - 2
        state = first if last == 1 else jax.tree.map(lambda s, at=at: s[:, at], states)
        x = points[:, last - 1]
        u, state = jax.vmap(transform.update)(h * x, state)
        assert np.all(value(x - u) <= squared / (2 * np.asarray(state.t) ** 2) * (1 + 1e-9))


@pytest.mark.usefixtures("float64")
def test_ogm_attains_its_bound_on_the_steepest_quadratic() -> None:
    for num_steps in (1, 2, 5, 50):
        h = jnp.array([3.0])
        points, states = iterate(acc.scale_by_ogm(num_steps), 1 / 3, h, jnp.ones(1), num_steps)
        value, theta = 1.5 * float(points[-1, 0]) ** 2, float(states.t[-1])
        np.testing.assert_allclose(value, 3 / (2 * theta**2), rtol=1e-10)


def chebyshev_value(degree: int, condition: float) -> float:
    argument = (condition + 1) / (condition - 1)
    return float(np.cosh(degree * np.arccosh(argument)))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("condition", CONDITIONS)
def test_chebyshev_reaches_the_lower_bound(condition: float) -> None:
    h = spectrum(condition)
    for num_steps in (1, 7, 16, 64):
        transform = acc.scale_by_chebyshev_steps(1 / condition, 1.0, num_steps)
        points, _ = iterate(transform, 1.0, h, jnp.ones_like(h), num_steps)
        best = 1 / chebyshev_value(num_steps, condition)
        np.testing.assert_allclose(abs(points[-1, 0]), best, rtol=1e-5)
        assert np.all(np.abs(points[-1]) <= best * (1 + 1e-5))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_chebyshev_semi_iteration_is_optimal_at_every_prefix(condition: float) -> None:
    h = spectrum(condition)
    points, _ = iterate(acc.scale_by_chebyshev(1 / condition, 1.0), 1.0, h, jnp.ones_like(h), 64)
    for steps in range(1, 65):
        best = 1 / chebyshev_value(steps, condition)
        np.testing.assert_allclose(abs(points[steps, 0]), best, rtol=1e-5)
        assert np.all(np.abs(points[steps]) <= best * (1 + 1e-5))


def test_chebyshev_steps_stay_moderate_in_between() -> None:
    """The price of a descending order: 1e31 at the same place (REFERENCES, section 4)."""
    h = jnp.asarray(np.logspace(-4, 0, 50))
    points, _ = iterate(acc.scale_by_chebyshev_steps(1e-4, 1.0, 64), 1.0, h, jnp.ones_like(h), 64)
    assert 1 < float(jnp.abs(points).max()) < 1e4


@pytest.mark.parametrize("condition", [10.0, 10_000.0])
def test_what_a_coordinate_loses_that_halts_before_the_final_step(condition: float) -> None:
    with jax.enable_x64(True):
        eigenvalues = jnp.logspace(-np.log10(condition), 0, 20)
        losses = {
            name: np.array(acceleration_rates.halted_early(name, condition, eigenvalues)).T
            for name in acceleration_rates.MADE_FOR_FINAL
        }
    for halted, made in losses.values():
        np.testing.assert_allclose(halted[-1], made[-1])
    halted, made = losses["OGM"]
    assert np.all(halted[:-1] > 1.1 * made[:-1])
    assert np.all(halted < 2 * made)
    np.testing.assert_allclose(*losses["Chebyshev"], rtol=1e-6)
    halted, made = losses["Chebyshev steps"]
    assert np.any(halted > 5 * made)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["pr", "hs"])
def test_conjugate_gradients_end_after_n_steps(kind: str) -> None:
    h, transform = spectrum(10.0, 20), acc.scale_by_conjugate_gradient(kind)
    x = jax.random.normal(KEY, h.shape)
    state = transform.init(x)
    for _ in range(20):
        u, state = transform.update(h * x, state)
        x = x - jnp.dot(h * x, u) / jnp.dot(u, h * u) * u
    assert float(jnp.abs(x).max()) <= 1e-8


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("condition", [100.0, 10_000.0])
@pytest.mark.parametrize("scheme", ["gradient", "value"])
def test_restart_improves_fista(condition: float, scheme: str) -> None:
    h, num_steps = spectrum(condition), int(20 * np.sqrt(condition))
    start = jax.random.normal(KEY, h.shape)
    fista = acc.scale_by_nesterov_sequence()
    plain, _ = iterate(fista, 1.0, h, start, num_steps)
    restarted, states = iterate(acc.adaptive_restart(fista, scheme), 1.0, h, start, num_steps)
    values = [float(jnp.sum(h * x[-1] ** 2)) for x in (plain, restarted)]
    assert values[1] < 0.1 * values[0]
    assert int(states.restarts[-1]) >= 1


@pytest.mark.usefixtures("float64")
def test_anderson_with_a_full_window_ends_like_gmres() -> None:
    h = spectrum(10.0, 5)
    transform = acc.scale_by_anderson(1.0, 6, regularization=1e-14)
    points, _ = iterate(transform, 1.0, h, jnp.ones_like(h), 8)
    assert float(jnp.abs(points[-1]).max()) < 1e-5
    assert float(jnp.abs(iterate(optax.identity(), 1.0, h, jnp.ones_like(h), 8)[0][-1]).max()) > 0.1


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["long", "short"])
def test_barzilai_borwein_is_faster_than_tuned_gradient_descent(kind: str) -> None:
    h = spectrum(100.0, 20)
    transform = acc.scale_by_barzilai_borwein(0.1, kind, largest=2_000.0)
    points, _ = iterate(transform, 1.0, h, jnp.ones_like(h), 100)
    descent, _ = iterate(optax.identity(), 2 / 1.01, h, jnp.ones_like(h), 100)
    assert float(jnp.abs(points[-1]).max()) < 0.1 * float(jnp.abs(descent[-1]).max())


def test_curvature_multiplies_every_mode() -> None:
    params = {"kernel": jnp.zeros((2, 2, 3, 4)), "bias": jnp.zeros(4)}
    matrices = acc.curvature_matrices(params)
    chex.assert_tree_all_finite(matrices)
    assert [m.shape for m in matrices["kernel"]] == [(4, 4), (3, 3), (4, 4)]
    keys = iter(jax.random.split(KEY, 20))
    draw = partial(jax.tree.map, lambda x: jax.random.normal(next(keys), x.shape))
    matrices, grads = draw(matrices), draw(params)
    transform = acc.scale_by_curvature(matrices)
    u, _ = transform.update(grads, transform.init(params))
    a, b, c = matrices["kernel"]
    expected = jnp.einsum("xp,yi,zo,pio->xyz", a, b, c, grads["kernel"].reshape(4, 3, 4))
    assert_close(u["kernel"].reshape(4, 3, 4), expected, rtol=1e-4, atol=1e-5)
    assert_close(u["bias"], matrices["bias"][0] @ grads["bias"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
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
    # Steps that cancel magnify the rounding of bfloat16, which jit and vmap place elsewhere.
    tolerance = {"rtol": 1e-4, "atol": 1e-6}
    if dtype == jnp.bfloat16:
        moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), looped[0], starts[0])
        tolerance = {"rtol": 0.01, "atol": 0.1 * max(moved.values())}
    assert_close(run(partial(step, unknown=3), starts[0]), looped[0], **tolerance)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *starts)
    batched = jax.vmap(lambda start: run(step, start))(stacked)
    assert_close(batched, jax.tree.map(lambda *x: jnp.stack(x), *looped), **tolerance)


RATE, MOMENTUM, INVERSE, T = 0.05, 0.6, 0.1, 4
SPECTRUM = (INVERSE / RATE, 1 / RATE)
ROWS: dict[str, Any] = {
    "sgd": optax.identity(),
    "heavy_ball": acc.scale_by_heavy_ball(MOMENTUM),
    "nesterov": acc.scale_by_nesterov(MOMENTUM),
    "nesterov_sequence": acc.scale_by_nesterov_sequence(),
    "nesterov_strongly_convex": acc.scale_by_nesterov_strongly_convex(INVERSE),
    "nesterov_restart": acc.adaptive_restart(acc.scale_by_nesterov_sequence()),
    "nesterov_restart_value": acc.adaptive_restart(acc.scale_by_nesterov_sequence(), "value"),
    "ogm": acc.scale_by_ogm(T),
    "chebyshev_steps": acc.scale_by_chebyshev_steps(*SPECTRUM, num_steps=T),
    "chebyshev": acc.scale_by_chebyshev(*SPECTRUM),
    "barzilai_borwein": acc.scale_by_barzilai_borwein(RATE),
    "barzilai_borwein_short": acc.scale_by_barzilai_borwein(RATE, "short"),
    "conjugate_gradient": acc.scale_by_conjugate_gradient("pr"),
    "conjugate_gradient_hs": acc.scale_by_conjugate_gradient("hs"),
    "anderson": acc.scale_by_anderson(RATE),
    "meta_curvature": optax.identity(),  # its matrices begin as identities
    "meta_curvature_momentum": acc.scale_by_heavy_ball(MOMENTUM),
    "adam": optax.scale_by_adam(eps_root=1e-8),
    "rmsprop": optax.scale_by_rms(eps=1e-6),
    "adagrad": optax.scale_by_rss(),
    "lion": optax.scale_by_lion(),
}


@pytest.mark.parametrize("granularity", ["global", "tensor", "parameter"])
@pytest.mark.parametrize("name", INNER_OPTIMIZERS)
def test_a_row_starts_as_its_transform_with_the_values_of_the_config(
    name: str, granularity: str
) -> None:
    params = {"w": jnp.array([1.0, -0.5, 0.2]), "b": jnp.array(0.7)}
    hyper = initial_hyper_params(
        name,
        params,
        learning_rate=RATE,
        momentum=MOMENTUM,
        inverse_condition=INVERSE,
        granularity=granularity,
    )
    per_coordinate = {"global": 1, "tensor": 2, "parameter": 4}[granularity]
    if "momentum" in hyper:
        assert sum(leaf.size for leaf in jax.tree.leaves(hyper["momentum"])) == per_coordinate
    row = make_inner_optimizer(name, params, T, granularity)(hyper)
    transforms = [optax.with_extra_args_support(of) for of in (row, ROWS[name])]
    states, points = [of.init(params) for of in transforms], [params, params]
    for _ in range(T):
        for side, transform in enumerate(transforms):
            grads = jax.tree.map(lambda p: 3 * p, points[side])
            value = optax.global_norm(grads)
            u, states[side] = transform.update(grads, states[side], points[side], value=value)
            alpha = 1.0 if INNER_OPTIMIZERS[name].own_step else RATE
            points[side] = jax.tree.map(lambda p, d, a=alpha: p - a * d, points[side], u)
        assert_close(points[0], points[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("key", CONSTRAINTS)
def test_a_learned_hyper_parameter_stays_in_its_range(key: str) -> None:
    constraint = CONSTRAINTS[key]
    values = constraint.to_value(jnp.array([-8.0, 0.0, 8.0]))
    assert (values > 0).all()
    if key in ("momentum", "inverse_condition"):
        assert (values < 1).all()
    assert_close(constraint.to_value(constraint.to_learned(jnp.array(0.3))), 0.3, rtol=1e-6)


@pytest.mark.parametrize("name", [*UNSAFE, "adamm"])
def test_an_unsafe_or_unknown_inner_optimizer_is_refused_with_the_reason(name: str) -> None:
    message = f"'{name}' is refused: its meta-gradients are NaN" if name in UNSAFE else "is unknown"
    with pytest.raises(ValueError, match=message):
        make_inner_optimizer(name, {}, 1)


def adapted(name: str, meta_params: MetaParams, num_steps: int = STEPS) -> Adaptation:
    support, _ = regression_episode(KEY)
    run = (regression_loss, lambda hyper: METHODS[name][1](hyper, STEPS), meta_params)
    return adapt(*run, support, KEY, num_steps=num_steps)


def meta_loss(name: str, meta_params: MetaParams) -> Array:
    _, query = regression_episode(KEY)
    return regression_loss(adapted(name, meta_params).params, query, KEY)[0]


def takes_its_own_way(state: Any) -> bool:
    """Has restarted, or mixed an earlier direction into this one."""
    if isinstance(state, acc.RestartState):
        return int(state.restarts) >= 1
    return not np.allclose(state.gradient["head"]["kernel"], state.direction["head"]["kernel"])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", METHODS)
def test_meta_gradients_equal_finite_differences(name: str) -> None:
    hyper, _, alpha = METHODS[name]
    meta_params = MetaParams(net_params(), learning_rates=strong(alpha), optimizer=strong(hyper))
    loss = partial(meta_loss, name)
    grads = jax.jit(jax.grad(loss))(meta_params)
    numeric = jax.jit(central_differences, static_argnums=0)(loss, meta_params)
    assert_close(grads, numeric, rtol=2e-5, atol=2e-8)
    assert_moves(grads.init)
    if name.startswith(("restart", "conjugate")):
        assert takes_its_own_way(adapted(name, meta_params, 4).carry[1])
    if hyper != ():
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads.optimizer)) > 1e-6


LEARNED = [
    (name, granularity)
    for name, row in INNER_OPTIMIZERS.items()
    for granularity in ("global", "tensor", "parameter")
    if row.hyper and (granularity == "global" or "momentum" in row.hyper)
]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("name", "granularity"), LEARNED)
def test_learned_hyper_parameters_of_a_row_have_the_gradients_of_finite_differences(
    name: str, granularity: str
) -> None:
    """In the space that is learned in: logits, logarithms, matrices, whatever is shared."""
    params = net_params()
    start = {"learning_rate": RATE, "momentum": MOMENTUM, "inverse_condition": INVERSE}
    hyper = initial_hyper_params(name, params, granularity=granularity, **start)
    make = make_inner_optimizer(name, params, STEPS, granularity)
    support, query = regression_episode(KEY)
    alpha = 1.0 if INNER_OPTIMIZERS[name].own_step else RATE

    def loss(hyper: Any) -> Array:
        meta_params = MetaParams(params, learning_rates=alpha, optimizer=hyper)
        adapted = adapt(regression_loss, make, meta_params, support, KEY, num_steps=STEPS).params
        return regression_loss(adapted, query, KEY)[0]

    grads = jax.jit(jax.grad(loss))(hyper)
    numeric = jax.jit(central_differences, static_argnums=0)(loss, hyper)
    assert_close(grads, numeric, rtol=2e-5, atol=2e-8)
    for learned in hyper:
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads[learned])) > 1e-6, learned


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

    return jax.grad(loss)(MetaParams(init, learning_rates=strong(alpha), optimizer=strong(hyper)))


@pytest.mark.parametrize("name", METHODS)
def test_meta_gradients_stay_finite_behind_a_dead_relu(name: str) -> None:
    hyper, make, alpha = METHODS[name]
    chex.assert_tree_all_finite(with_a_dead_unit(lambda of: make(of, STEPS), hyper, alpha))


BROKEN = {
    "adam": optax.scale_by_adam(),  # with its defaults: ours has eps_root
    "nadam": optax.nadam(1.0),
    "amsgrad": optax.amsgrad(1.0),
    "radam": optax.radam(1.0),
    "lamb": optax.lamb(1.0),
    "muon": optax.contrib.muon(1.0),
    "lbfgs": optax.scale_by_lbfgs(),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_refused_has_meta_gradients_that_are_not_finite(name: str) -> None:
    assert {*UNSAFE, "adam"} == set(BROKEN)
    if name == "lbfgs":  # where all gradients are 0
        loss = lambda init: jnp.sum(  # noqa: E731
            adapt(
                lambda w, support, key: (jnp.sum(w**2), ()),
                lambda _: BROKEN[name],
                MetaParams(init, learning_rates=0.005),
                *(None, KEY),
                num_steps=3,
            ).params
        )
        grads = jax.grad(loss)(jnp.zeros(2))
        assert not np.isfinite(grads).all()
        return
    grads = with_a_dead_unit(lambda _: BROKEN[name], (), 0.005)
    assert not np.isfinite(grads.init["bias"]).all()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("place", ["optimum", "halted", "all halted"])
def test_meta_gradients_stay_finite(name: str, place: str) -> None:
    hyper, make, alpha = METHODS[name]
    init = jnp.array([1.0, -1.0, 0.5])

    def loss_fn(params: Array, target: Array, key: Array) -> tuple[Array, tuple[()]]:
        return 0.5 * jnp.sum((params - target) ** 2), ()

    def gates(halting: Any, params: Any, k: Array) -> Any:
        still_on = {"halted": jnp.array([0.0, 1.0, 1.0]), "all halted": jnp.zeros(3)}
        alive = k < {"halted": 2, "all halted": 0}.get(place, STEPS)
        return jnp.where(alive, 1.0, still_on.get(place, 1.0))

    target = init if place == "optimum" else jnp.array([0.2, 0.1, -0.4])

    def loss(meta_params: MetaParams) -> Array:
        run = (lambda hyper: make(hyper, STEPS), meta_params, target, KEY)
        adapted = adapt(loss_fn, *run, num_steps=STEPS, halting=gates).params
        return jnp.sum((adapted - 1.3) ** 2)

    meta_params = MetaParams(init, learning_rates=strong(alpha), optimizer=strong(hyper))
    value, grads = jax.value_and_grad(loss)(meta_params)
    chex.assert_tree_all_finite((value, grads))


def test_a_restart_weighs_coordinates_by_how_far_they_really_move() -> None:
    """The momentum after these gradients points uphill or not, with these step sizes."""
    transform = acc.adaptive_restart(acc.scale_by_heavy_ball(0.9))
    for step_size, gradient, expected in (
        (None, [0.1, -0.45], 1),
        ([1.0, 1.0], [0.1, -0.45], 1),
        ([10.0, 1.0], [0.1, -0.45], 0),
        ([1.0, 1.0], [0.5, 0.5], 0),
        ([1.0, -2.0], [0.5, 0.5], 1),  # a learned rate may be negative
    ):
        alpha = None if step_size is None else jnp.array(step_size)
        _, first = transform.update(jnp.ones(2), transform.init(jnp.zeros(2)), step_size=alpha)
        _, second = transform.update(jnp.array(gradient), first, step_size=alpha)
        assert int(second.restarts - first.restarts) == expected


# Wild in both directions, so that momenta turn and differences of gradients do not vanish.
SCALES = jnp.array([1.0, 1.0, 1.0, -0.2, 2.0, -0.5])


def run_halting(name: str, init: Array, gates: Any, scale: Any, monitor: Any = None) -> Any:
    """Six steps on ½ Σ h w² with h = (1, 3) and, for the third coordinate, scale(k)."""
    hyper, make, alpha = METHODS[name]

    def loss_fn(seen: Any, support: Any, key: Array) -> tuple[Array, tuple[()]]:
        w, k = seen
        curvature = jnp.stack([jnp.ones(()), 3 * jnp.ones(()), scale(k)])[: w.size]
        return 0.5 * jnp.sum(curvature * w**2), ()

    return adapt(
        loss_fn,
        lambda hyper: make(hyper, 6),
        MetaParams(init, learning_rates=alpha, optimizer=strong(hyper)),
        *(None, KEY),
        num_steps=6,
        halting=lambda _, params, k: gates(k),
        at_step=lambda params, k: (params, k),
        monitor=lambda seen, k: seen[0],
    ).monitored


# A restart by value looks at the loss itself, in which halted coordinates count.
@pytest.mark.parametrize("name", [name for name in METHODS if name != "restart_value"])
def test_halted_coordinates_do_not_change_the_others(name: str) -> None:
    """The last coordinate halts at step 2, and its gradient turns wild: nothing else does."""

    def trajectory(wild: float) -> Array:
        return run_halting(
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
    alone = run_halting(name, init[:2], lambda k: jnp.ones(2), lambda k: jnp.ones(()))
    gates = jnp.array([1.0, 1.0, 0.0])
    beside = run_halting(name, init, lambda k: gates, lambda k: 50 * SCALES[k])
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


def test_anderson_meta_gradients_do_not_depend_on_the_precision() -> None:
    curvature = np.logspace(-1, 0, 8)

    def gradient() -> Any:
        def loss_fn(params: Array, support: None, key: Array) -> tuple[Array, tuple[()]]:
            return 0.5 * jnp.sum(curvature * (jnp.tanh(params) - 0.3) ** 2), ()

        def loss(init: Array) -> Array:
            meta_params = MetaParams(init, learning_rates=1.0, optimizer=jnp.asarray(0.5))
            run = (acc.scale_by_anderson, meta_params, None, KEY)
            return jnp.sum((adapt(loss_fn, *run, num_steps=20).params - 1.0) ** 2)

        return jax.grad(loss)(jnp.asarray(np.linspace(-1.0, 1.0, 8), float))

    single = gradient()
    with jax.enable_x64(True):
        double = gradient()
    single, double = np.asarray(single), np.asarray(double)
    assert single.dtype != double.dtype
    np.testing.assert_allclose(single, double, atol=0.05 * np.abs(double).max())


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


ALIASES = {
    "heavy_ball": (acc.heavy_ball(0.1, 0.6), acc.scale_by_heavy_ball(0.6), 0.1),
    "nesterov": (acc.nesterov(0.1, 0.6), acc.scale_by_nesterov(0.6), 0.1),
    "nesterov_strongly_convex": (
        acc.nesterov_strongly_convex(0.1, 0.2),
        acc.scale_by_nesterov_strongly_convex(0.2),
        0.1,
    ),
    "nesterov_sequence": (acc.nesterov_sequence(0.1), acc.scale_by_nesterov_sequence(), 0.1),
    "ogm": (acc.ogm(0.1, 3), acc.scale_by_ogm(3), 0.1),
    "chebyshev_steps": (
        acc.chebyshev_steps(1.0, 3.0, 3),
        acc.scale_by_chebyshev_steps(1.0, 3.0, 3),
        1.0,
    ),
    "chebyshev": (acc.chebyshev(1.0, 3.0), acc.scale_by_chebyshev(1.0, 3.0), 1.0),
    "barzilai_borwein": (acc.barzilai_borwein(0.1), acc.scale_by_barzilai_borwein(0.1), 1.0),
    "conjugate_gradient": (
        acc.conjugate_gradient(0.1, "hs"),
        acc.scale_by_conjugate_gradient("hs"),
        0.1,
    ),
    "anderson": (acc.anderson(0.1, 2), acc.scale_by_anderson(0.1, 2), 1.0),
    "curvature": (
        acc.curvature(0.1, (2 * jnp.eye(2),)),
        acc.scale_by_curvature((2 * jnp.eye(2),)),
        0.1,
    ),
}


@pytest.mark.parametrize("name", ALIASES)
def test_an_alias_is_its_transform_with_a_step(name: str) -> None:
    optimizer, direction, alpha = ALIASES[name]
    params = expected = jnp.array([1.0, -0.5])
    state, direction_state = optimizer.init(params), direction.init(params)
    for _ in range(3):
        updates, state = optimizer.update(jnp.array([1.0, 3.0]) * params, state, params)
        u, direction_state = direction.update(
            jnp.array([1.0, 3.0]) * expected, direction_state, expected
        )
        params, expected = optax.apply_updates(params, updates), expected - alpha * u
        assert_close(params, expected, rtol=1e-6)


def test_inner_products_of_bfloat16_are_summed_in_float32() -> None:
    x = {"w": jnp.full(1000, 1.0078125, jnp.bfloat16)}
    assert acc._dot(x, x).dtype == jnp.float32
    assert_close(acc._dot(x, x), 1000 * 1.0078125**2, rtol=1e-6)


def test_the_semi_iteration_on_a_single_eigenvalue_is_gradient_descent() -> None:
    points, _ = iterate(acc.scale_by_chebyshev(2.0, 2.0), 1.0, jnp.array([1.0]), jnp.ones(1), 4)
    assert_close(points[:, 0], 0.5 ** np.arange(5), rtol=1e-6)


@pytest.mark.parametrize("kind", ["pr", "hs"])
def test_a_halted_coordinate_of_conjugate_gradients_keeps_its_gradient(kind: str) -> None:
    """β, made of the others, may be large: a halted direction must not grow with it."""
    transform, gate = acc.scale_by_conjugate_gradient(kind), jnp.array([1.0, 0.0])
    state = transform.init(jnp.zeros(2))
    for size in (1e-7, 1e-3, 1e1, 1e5, 1e9, 1e13):
        u, state = transform.update(jnp.array([size, 1.0]), state, gate=gate)
        assert u[1] == 1.0
        assert np.isfinite(u).all()


def test_barzilai_borwein_stays_within_its_safeguards() -> None:
    transform = acc.scale_by_barzilai_borwein(0.1, smallest=0.5, largest=2.0)
    for curvature, expected in ((1e-3, 0.2), (1e3, 0.05)):
        state = transform.init(jnp.ones(1))
        _, state = transform.update(curvature * jnp.ones(1), state, jnp.ones(1))
        _, state = transform.update(curvature * 0.5 * jnp.ones(1), state, 0.5 * jnp.ones(1))
        assert_close(state.step, expected, rtol=1e-6)


def initial(name: str, **changed: float) -> dict[str, Any]:
    start = {"learning_rate": RATE, "momentum": MOMENTUM, "inverse_condition": INVERSE}
    return initial_hyper_params(name, jnp.ones(2), **start | changed)


def first_update(transform: Any) -> Any:
    return transform.update(jnp.ones(2), transform.init(jnp.ones(2)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: acc.scale_by_heavy_ball(1.0), "momentum=1.0 is not allowed; use 0 or more, below"),
        (lambda: acc.scale_by_nesterov(-0.1), "momentum=-0.1"),
        (lambda: acc.scale_by_nesterov_strongly_convex(-0.1), "inverse_condition=-0.1"),
        (lambda: acc.scale_by_ogm(0), "num_steps=0"),
        (lambda: acc.scale_by_chebyshev(0.0, 1.0), "smallest=0.0"),
        (lambda: acc.scale_by_chebyshev(2.0, 1.0), "largest=1.0 is not allowed; use smallest=2.0"),
        (lambda: acc.scale_by_chebyshev_steps(-1.0, 1.0, 3), "smallest=-1.0"),
        (lambda: acc.scale_by_barzilai_borwein(-0.1), "initial_step=-0.1"),
        (lambda: acc.scale_by_barzilai_borwein(0.1, smallest=10.0), "smallest=10.0"),
        (lambda: acc.scale_by_barzilai_borwein(0.1, largest=0.1), "largest=0.1"),
        (lambda: acc.scale_by_anderson(0.0), "step=0.0"),
        (lambda: acc.scale_by_anderson(0.1, regularization=-1.0), "regularization=-1.0"),
        (lambda: initial("heavy_ball", momentum=1.2), "momentum=1.2"),
        (lambda: initial("anderson", learning_rate=-0.1), "learning_rate=-0.1"),
        (lambda: initial("chebyshev", inverse_condition=0.0), "inverse_condition=0.0"),
        (lambda: first_update(acc.scale_by_barzilai_borwein(0.1)), "needs the parameters"),
        (lambda: first_update(acc.scale_by_anderson(0.1)), "needs the parameters"),
        (
            lambda: first_update(acc.adaptive_restart(acc.scale_by_nesterov(0.9), "value")),
            "needs the loss",
        ),
        (lambda: acc.scale_by_chebyshev_steps(1.0, 2.0, 0), "num_steps=0"),
        (lambda: acc.scale_by_barzilai_borwein(0.1, "both"), "'long' or 'short'"),
        (lambda: acc.scale_by_conjugate_gradient("fr"), "'pr' or 'hs'"),
        (lambda: acc.scale_by_anderson(0.1, 0), "window=0"),
        (lambda: acc.adaptive_restart(optax.identity(), "speed"), "'gradient' or 'value'"),
    ],
)
def test_bad_arguments_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
