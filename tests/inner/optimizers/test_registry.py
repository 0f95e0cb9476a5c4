"""The table of inner optimizers: initial values, learned hyper-parameters, your own entries."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maml_jax import MetaParams
from maml_jax.inner.optimizers import (
    INNER_OPTIMIZERS,
    adaptive_restart,
    initial_hyper_params,
    make_inner_optimizer,
    register_inner_optimizer,
    scale_by_anderson,
    scale_by_barzilai_borwein,
    scale_by_chebyshev,
    scale_by_chebyshev_steps,
    scale_by_conjugate_gradient,
    scale_by_heavy_ball,
    scale_by_nesterov,
    scale_by_nesterov_sequence,
    scale_by_nesterov_strongly_convex,
    scale_by_ogm,
)
from maml_jax.inner.optimizers.registry import CONSTRAINTS, HYPER_PARAMS
from maml_jax.types import Array
from tests.inner.optimizers.methods import KEY
from tests.inner.problems import (
    adapt,
    assert_bits_equal,
    assert_close,
    central_differences,
    float64,  # noqa: F401, a fixture
    net_params,
    regression_episode,
    regression_loss,
)
from tests.marks import slow_but

STEPS = 10
STEP_SIZE, MOMENTUM, INVERSE, T = 0.05, 0.6, 0.1, 4
START = {"step_size": STEP_SIZE, "momentum": MOMENTUM, "inverse_condition": INVERSE}
SPECTRUM = (INVERSE / STEP_SIZE, 1 / STEP_SIZE)
EXPECTED: dict[str, Any] = {
    "sgd": optax.identity(),
    "heavy_ball": scale_by_heavy_ball(MOMENTUM),
    "nesterov": scale_by_nesterov(MOMENTUM),
    "nesterov_sequence": scale_by_nesterov_sequence(),
    "nesterov_strongly_convex": scale_by_nesterov_strongly_convex(INVERSE),
    "nesterov_restart": adaptive_restart(scale_by_nesterov_sequence()),
    "nesterov_restart_value": adaptive_restart(scale_by_nesterov_sequence(), "value"),
    "ogm": scale_by_ogm(T),
    "chebyshev_steps": scale_by_chebyshev_steps(*SPECTRUM, num_steps=T),
    "chebyshev": scale_by_chebyshev(*SPECTRUM),
    "barzilai_borwein": scale_by_barzilai_borwein(STEP_SIZE),
    "barzilai_borwein_short": scale_by_barzilai_borwein(STEP_SIZE, "short"),
    "conjugate_gradient": scale_by_conjugate_gradient("pr"),
    "conjugate_gradient_hs": scale_by_conjugate_gradient("hs"),
    "anderson": scale_by_anderson(STEP_SIZE),
    "meta_curvature": optax.identity(),  # its matrices begin as identities
    "meta_curvature_momentum": scale_by_heavy_ball(MOMENTUM),
    "adam": optax.scale_by_adam(eps_root=1e-8),
    "rmsprop": optax.scale_by_rms(eps=1e-6),
    "adagrad": optax.scale_by_rss(),
    "lion": optax.scale_by_lion(),
}


GRANULARITIES = ("global", "tensor", "parameter")  # only a momentum may differ between coordinates
STARTS = [
    (name, granularity)
    for name, entry in INNER_OPTIMIZERS.items()
    for granularity in (GRANULARITIES if "momentum" in entry.hyper else GRANULARITIES[:1])
]


@pytest.mark.parametrize(("name", "granularity"), STARTS)
def test_an_entry_starts_as_its_transform_with_the_values_of_the_config(
    name: str, granularity: str
) -> None:
    params = {"w": jnp.array([1.0, -0.5, 0.2]), "b": jnp.array(0.7)}
    hyper = initial_hyper_params(name, params, **START, granularity=granularity)
    per_coordinate = {"global": 1, "tensor": 2, "parameter": 4}[granularity]
    if "momentum" in hyper:
        assert sum(leaf.size for leaf in jax.tree.leaves(hyper["momentum"])) == per_coordinate
    made = make_inner_optimizer(name, params, T, granularity)(hyper)
    transforms = [optax.with_extra_args_support(of) for of in (made, EXPECTED[name])]
    states, points = [of.init(params) for of in transforms], [params, params]
    for _ in range(T):
        for side, transform in enumerate(transforms):
            grads = jax.tree.map(lambda p: 3 * p, points[side])
            value = optax.global_norm(grads)
            u, states[side] = transform.update(grads, states[side], points[side], value=value)
            alpha = 1.0 if INNER_OPTIMIZERS[name].own_step else STEP_SIZE
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


LEARNED = [
    (name, granularity)
    for name, entry in INNER_OPTIMIZERS.items()
    for granularity in (GRANULARITIES if name == "heavy_ball" else GRANULARITIES[:1])
    if entry.hyper
]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "granularity"),
    slow_but([("heavy_ball", GRANULARITIES[0]), ("chebyshev", GRANULARITIES[0])], LEARNED),
)
def test_learned_hyper_parameters_have_the_gradients_of_finite_differences(
    name: str, granularity: str
) -> None:
    """In the space that is learned in: logits, logarithms, matrices, whatever is shared."""
    params = net_params()
    hyper = initial_hyper_params(name, params, granularity=granularity, **START)
    make = make_inner_optimizer(name, params, STEPS, granularity)
    support, query = regression_episode(KEY)
    alpha = 1.0 if INNER_OPTIMIZERS[name].own_step else STEP_SIZE

    def loss(hyper: Any) -> Array:
        meta_params = MetaParams(params, step_sizes=alpha, optimizer=hyper)
        adapted = adapt(regression_loss, make, meta_params, support, KEY, num_steps=STEPS).params
        return regression_loss(adapted, query, KEY)[0]

    grads = jax.jit(jax.grad(loss))(hyper)
    numeric = jax.jit(central_differences, static_argnums=0)(loss, hyper)
    assert_close(grads, numeric, rtol=2e-5, atol=2e-8)
    for learned in hyper:
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads[learned])) > 1e-6, learned


@pytest.fixture
def restored_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forgets the entries of a test, which tests over the whole table do not expect."""
    with monkeypatch.context() as patch:
        patch.setattr(INNER_OPTIMIZERS, "_entries", dict(INNER_OPTIMIZERS))
        yield


@pytest.mark.usefixtures("restored_registry")
def test_a_registered_inner_optimizer_is_found_and_learns_like_one_of_the_package() -> None:
    name = "my_heavy_ball"
    with pytest.raises(ValueError, match="is unknown"):
        INNER_OPTIMIZERS.find(name)
    register_inner_optimizer(
        name, lambda values, num_steps: scale_by_heavy_ball(values["momentum"]), hyper=["momentum"]
    )
    params, (support, query) = net_params(), regression_episode(KEY)

    def gradient(name: str) -> Any:
        def loss(hyper: Any) -> Array:
            make = make_inner_optimizer(name, params, T, "tensor")
            meta_params = MetaParams(params, step_sizes=STEP_SIZE, optimizer=hyper)
            adapted = adapt(regression_loss, make, meta_params, support, KEY, num_steps=T).params
            return regression_loss(adapted, query, KEY)[0]

        hyper = initial_hyper_params(name, params, granularity="tensor", **START)
        return jax.value_and_grad(loss)(hyper)

    assert_bits_equal(gradient(name), gradient("heavy_ball"))


@pytest.mark.usefixtures("restored_registry")
def test_a_registered_inner_optimizer_gets_the_values_of_its_hyper_parameters() -> None:
    seen: dict[str, Any] = {}

    def make(values: Mapping[str, Any], num_steps: int) -> optax.GradientTransformation:
        seen.update(values, num_steps=num_steps)
        return optax.identity()

    register_inner_optimizer("my_own_step", make, hyper=HYPER_PARAMS, own_step=True)
    params = {"w": jnp.ones((2, 3))}
    hyper = initial_hyper_params("my_own_step", params, **START)
    make_inner_optimizer("my_own_step", params, 7)(hyper)
    expected = {
        "momentum": {"w": MOMENTUM},
        "inverse_condition": INVERSE,
        "step": STEP_SIZE,
        "largest": 1 / STEP_SIZE,
        "matrices": {"w": (np.eye(2), np.eye(3))},
        "num_steps": 7,
    }
    assert_close(seen, expected, rtol=1e-6)
    assert INNER_OPTIMIZERS.find("my_own_step").own_step


def make_sgd(values: Mapping[str, Any], num_steps: int) -> optax.GradientTransformation:
    del values, num_steps
    return optax.identity()


def initial(name: str, **changed: float) -> dict[str, Any]:
    return initial_hyper_params(name, jnp.ones(2), **START | changed)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: initial("heavy_ball", momentum=1.2), "momentum=1.2"),
        (lambda: initial("anderson", step_size=-0.1), "step_size=-0.1"),
        (lambda: initial("anderson", step_size=float("inf")), "step_size=inf is not finite"),
        (lambda: initial("chebyshev", inverse_condition=0.0), "inverse_condition=0.0"),
        (lambda: initial("adamm"), "inner optimizer 'adamm' is unknown; choose from sgd, heavy"),
        (lambda: make_inner_optimizer("adamm", {}, 1), "inner optimizer 'adamm' is unknown"),
        (lambda: register_inner_optimizer("adam", make_sgd), "'adam' is part of maml_jax"),
        (
            lambda: register_inner_optimizer("my_typo", make_sgd, hyper=["momentun"]),
            "'momentun' of 'my_typo' is unknown; "
            "choose from momentum, inverse_condition, step, largest, matrices",
        ),
    ],
)
def test_bad_arguments_are_named(make: Callable[[], Any], message: str) -> None:
    names = list(INNER_OPTIMIZERS)
    with pytest.raises(ValueError, match=message):
        make()
    assert list(INNER_OPTIMIZERS) == names
