"""Optimizers of optax in the inner loop, against a plain loop: values and derivatives."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from maml_jax import MetaParams, as_direction
from maml_jax.inner.optimizers import adaptive_restart, scale_by_nesterov_sequence
from maml_jax.inner.step import reads_loss
from maml_jax.types import Array
from tests.inner.problems import (
    adapt,
    assert_close,
    assert_moves,
    float64,  # noqa: F401, a fixture
)
from tests.marks import slow_but

STEPS, INPUTS = 3, np.array([[0.9, -1.1, 0.4], [0.3, 0.8, -0.6], [-0.5, 0.7, 1.2]])
INIT = {"w": np.array([[0.6, -1.1, 0.3], [-0.2, 0.4, 0.8]]), "b": np.array([0.5, -0.9])}
ALPHA = 0.02


def loss_fn(params: Any, targets: Any, key: Any = None) -> tuple[Array, tuple[()]]:
    del key
    errors = jnp.tanh(INPUTS @ params["w"].T) @ params["b"] - targets
    return jnp.mean(errors**2) + 0.1 * jnp.sum(params["w"] ** 4), ()


SUPPORT, QUERY = np.array([0.4, -0.9, 0.6]), np.array([0.1, -0.3, 1.2])

READS_LOSS = {
    "polyak_sgd": optax.polyak_sgd(max_learning_rate=10.0),
    "polyak_sgd, limited": optax.polyak_sgd(max_learning_rate=0.01),
    "polyak with momentum": optax.chain(optax.polyak_sgd(10.0), optax.trace(0.5)),
    "momo": contrib.momo(0.5),
    "momo_adam": contrib.momo_adam(0.1),
    "reduce_on_plateau": optax.chain(optax.sgd(ALPHA), contrib.reduce_on_plateau()),
}
PLAIN = {
    "sgd": optax.sgd(ALPHA),
    "momentum": optax.sgd(ALPHA, 0.9),
    "nesterov": optax.sgd(ALPHA, 0.9, nesterov=True),
    "schedule": optax.sgd(optax.cosine_decay_schedule(ALPHA, 4)),
    "injected": optax.inject_hyperparams(optax.adam)(ALPHA),
    "clipped": optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(ALPHA)),
    "clipped by blocks": optax.chain(optax.adaptive_grad_clip(0.5), optax.sgd(ALPHA)),
    "normalized": optax.chain(optax.normalize_by_update_norm(), optax.scale(-ALPHA)),
    "centralized": optax.chain(optax.centralize(), optax.sgd(ALPHA)),
    "accumulated": optax.MultiSteps(optax.sgd(ALPHA), 2).gradient_transformation(),
    "adabelief": optax.adabelief(ALPHA),
    "adadelta": optax.adadelta(1.0),
    "adafactor": optax.adafactor(ALPHA, min_dim_size_to_factor=2),
    "adagrad": optax.adagrad(ALPHA),
    "adam": optax.adam(ALPHA),
    "adamax": optax.adamax(ALPHA),
    "adamaxw": optax.adamaxw(ALPHA),
    "adamw": optax.adamw(ALPHA),
    "adan": optax.adan(ALPHA),
    "amsgrad": optax.amsgrad(ALPHA),
    "fromage": optax.fromage(ALPHA),
    "lamb": optax.lamb(ALPHA),
    "lars": optax.lars(ALPHA),
    "lbfgs": optax.lbfgs(ALPHA, linesearch=None),
    "lion": optax.lion(ALPHA),
    "nadam": optax.nadam(ALPHA),
    "nadamw": optax.nadamw(ALPHA),
    "noisy_sgd": optax.noisy_sgd(ALPHA, key=0),
    "novograd": optax.novograd(ALPHA),
    "optimistic_adam": optax.optimistic_adam_v2(ALPHA),
    "optimistic_gradient_descent": optax.optimistic_gradient_descent(ALPHA),
    "radam": optax.radam(ALPHA),
    "rmsprop": optax.rmsprop(ALPHA),
    "rprop": optax.rprop(ALPHA),
    "sign_sgd": optax.sign_sgd(ALPHA),
    "sm3": optax.sm3(ALPHA),
    "yogi": optax.yogi(ALPHA),
    "acprop": contrib.acprop(ALPHA),
    "ademamix": contrib.ademamix(ALPHA),
    "adopt": contrib.adopt(ALPHA),
    "cocob": contrib.cocob(),
    "dadapt_adamw": contrib.dadapt_adamw(ALPHA),
    "dog": contrib.dog(ALPHA),
    "dowg": contrib.dowg(ALPHA),
    "madgrad": contrib.madgrad(ALPHA),
    "mechanize": contrib.mechanize(optax.sgd(ALPHA)),
    "muon": contrib.muon(ALPHA),
    "prodigy": contrib.prodigy(ALPHA),
    "schedule_free": contrib.schedule_free_sgd(ALPHA),
}


# A plain loop has no finite meta-gradient either: they take the root of a difference that is 0.
NOT_FINITE = ("radam", "dog", "mechanize")
FAST = [(name, "exact") for name in ("momentum", "adafactor", "lion", "sm3", "polyak_sgd", "momo")]
CASES = [(name, "exact") for name in (*PLAIN, *READS_LOSS)]
CASES += [(name, "reverse") for name in READS_LOSS if name != "momo"]


def in_the_inner_loop(optimizer: Any, meta_gradient: str) -> Callable[[Any], Any]:
    def query_loss(case: Any) -> tuple[Array, Any]:
        meta_params = MetaParams(case["init"], step_sizes=1.0)
        run = (loss_fn, as_direction(optimizer), meta_params, case["support"], jax.random.key(0))
        done = adapt(*run, num_steps=STEPS, meta_gradient=meta_gradient)
        return loss_fn(done.params, QUERY)[0], done.params

    return query_loss


def in_a_plain_loop(optimizer: Any) -> Callable[[Any], Any]:
    update = optax.with_extra_args_support(optimizer).update

    def query_loss(case: Any) -> tuple[Array, Any]:
        params, state = case["init"], optimizer.init(case["init"])
        for _ in range(STEPS):
            value, grads = jax.value_and_grad(lambda p: loss_fn(p, case["support"])[0])(params)
            updates, state = update(grads, state, params, value=value, grad=grads)
            params = optax.apply_updates(params, updates)
        return loss_fn(params, QUERY)[0], params

    return query_loss


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "meta_gradient"), slow_but([*FAST, ("polyak_sgd", "reverse")], CASES)
)
def test_the_inner_loop_equals_a_plain_loop(name: str, meta_gradient: str) -> None:
    """The derivative passes through everything that the update reads."""
    optimizer = {**PLAIN, **READS_LOSS}[name]
    case = jax.tree.map(jnp.asarray, {"init": INIT, "support": SUPPORT})
    query_loss = in_the_inner_loop(optimizer, meta_gradient)
    actual = jax.jit(jax.value_and_grad(query_loss, has_aux=True))(case)
    expected = jax.value_and_grad(in_a_plain_loop(optimizer), has_aux=True)(case)
    assert_close(actual, expected, rtol=1e-8, atol=1e-11)
    assert np.isfinite(optax.tree.norm(actual[1])) == (name not in NOT_FINITE)
    assert_moves(expected[0][1])


@pytest.mark.usefixtures("float64")
def test_only_optimizers_that_read_the_loss_are_given_its_derivative() -> None:
    """Others, ours included, are not traced with one more derivative."""
    init = jax.tree.map(jnp.asarray, INIT)
    restart = adaptive_restart(scale_by_nesterov_sequence(), "value")
    for name, transform in {**PLAIN, **READS_LOSS, "restart": restart}.items():
        assert reads_loss(transform, transform.init(init), init) == (name in READS_LOSS), name
