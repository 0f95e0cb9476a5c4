"""Small problems, textbook updates and finite differences that tests share."""

from collections.abc import Callable, Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from maml_jax import Examples, InnerLoop, MetaParams
from maml_jax.inner.optimizers.registry import adam, as_direction, heavy_ball, nesterov, sgd
from maml_jax.types import Adaptation
from tests.marks import slow_but

OPTIMIZERS = {
    "sgd": sgd,
    "heavy_ball": heavy_ball,
    "nesterov": nesterov,
    "adam": adam,
    "rmsprop": as_direction(optax.rmsprop(0.1, eps=1e-6)),
}
META_GRADIENTS = ("exact", "reverse", "first_order")
_GRID = [(name, estimator) for name in OPTIMIZERS for estimator in META_GRADIENTS]
# Every optimizer and every meta-gradient at least once.
CROSS = [
    (name, estimator) for name, estimator in _GRID if name == "heavy_ball" or estimator == "exact"
]
GRID = slow_but([(name, of) for name, of in CROSS if name in ("heavy_ball", "sgd", "adam")], _GRID)


def adapt(
    loss: Any, optimizer: Any, meta_params: MetaParams, support: Any, key: Any, **options: Any
) -> Adaptation:
    """Makes an inner loop and calls it."""
    call = {name: options.pop(name) for name in ("monitor", "start", "carry") if name in options}
    return InnerLoop(loss, optimizer, **options)(meta_params, support, key, **call)


@pytest.fixture
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def assert_close(actual: Any, expected: Any, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    chex.assert_trees_all_close(actual, expected, rtol=rtol, atol=atol)


def assert_bits_equal(actual: Any, expected: Any) -> None:
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def assert_moves(tree: Any) -> None:
    """Asserts that no leaf of a gradient is zero, which would make comparisons meaningless."""
    for leaf in jax.tree.leaves(tree):
        assert np.abs(leaf).max() > 1e-6


def central_differences(fn: Callable[[Any], jax.Array], at: Any, eps: float = 1e-5) -> Any:
    """∂fn/∂at of a scalar function over a pytree of float64 leaves."""
    flat, unravel = ravel_pytree(at)
    shifts = eps * jnp.eye(flat.size)
    shifted = flat + jnp.concatenate([shifts, -shifts])  # together, to compile fn once
    after, before = jnp.split(jax.jit(jax.vmap(lambda x: fn(unravel(x))))(shifted), 2)
    return unravel((after - before) / (2 * eps))


def strong(value: float) -> jax.Array:
    """A scalar without a weak type, as learned ones are."""
    return jnp.asarray(value, jnp.result_type(float))


def net_params(hidden: int = 3) -> dict[str, Any]:
    """Parameters of a 1-hidden-1 network."""
    body_key, head_key = jax.random.split(jax.random.key(3))
    return {
        "body": {"kernel": jax.random.normal(body_key, (1, hidden))},
        "head": {"kernel": jax.random.normal(head_key, (hidden, 1))},
    }


def net(params: Any, inputs: jax.Array) -> jax.Array:
    """Maps [S, 1] to [S, 1], with a smooth activation for finite differences."""
    return jnp.tanh(inputs @ params["body"]["kernel"]) @ params["head"]["kernel"]


def regression_loss(params: Any, data: Examples, key: Any) -> tuple[jax.Array, dict[str, Any]]:
    del key
    errors = net(params, data.inputs) - data.targets
    return jnp.mean(errors**2), {"mae": jnp.mean(jnp.abs(errors))}


def noisy_loss(params: Any, data: Examples, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
    """Regression from shifted inputs, with a different shift at every inner step."""
    shift = (jax.random.key_data(key)[-1] % 1000).astype(data.inputs.dtype) / 2000
    return regression_loss(params, data._replace(inputs=data.inputs + shift), key)


def regression_data(seed: int = 0, size: int = 4) -> Examples:
    inputs = jax.random.uniform(jax.random.key(seed), (size, 1), minval=-2, maxval=2)
    return Examples(inputs, jnp.sin(2 * inputs))


def regression_episode(key: jax.Array) -> tuple[Examples, Examples]:
    """(support, query) of a sine wave of random frequency, with 4 examples each."""
    frequency_key, *keys = jax.random.split(key, 3)
    frequency = jax.random.uniform(frequency_key, minval=1, maxval=3)
    inputs = [jax.random.uniform(k, (4, 1), minval=-2, maxval=2) for k in keys]
    return tuple(Examples(x, jnp.sin(frequency * x)) for x in inputs)


def toy_gates(lengths: Any, params: Any, k: jax.Array) -> Any:
    """Soft gates σ(κ − k), with one κ per tensor."""
    return jax.tree.map(lambda kappa, p: jax.nn.sigmoid(kappa - k).astype(p.dtype), lengths, params)


def meta_params(name: str = "heavy_ball", *, per_tensor: bool = False) -> MetaParams:
    """Meta-parameters for the optimizer with this name; every field can be learned."""
    init = net_params()
    step_size = 0.4 if name == "rmsprop" else 0.05
    step_sizes = jax.tree.map(lambda p: step_size * (1 + jnp.abs(p[0, 0])), init)
    return MetaParams(
        init=init,
        lengths=jax.tree.map(lambda p: 0.5 + jnp.abs(p[0, 0]), init),
        step_sizes=step_sizes if per_tensor else strong(step_size),
        optimizer={"momentum": strong(0.7)},
    )


def textbook_direction(name: str, mu: Any, memory: Any, g: Any, t: int) -> tuple[Any, Any]:
    """Direction and new memory as in the papers; the memory is (0, 0) before step t = 1."""
    first, second = memory
    if name in ("heavy_ball", "nesterov"):
        first = g + mu * first
        return (first if name == "heavy_ball" else g + mu * first), (first, second)
    if name == "adam":
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        scale = jnp.sqrt(second / (1 - 0.999**t) + 1e-8) + 1e-8
        return first / (1 - 0.9**t) / scale, (first, second)
    if name == "rmsprop":
        second = 0.9 * second + 0.1 * g**2
        return 0.1 * g / jnp.sqrt(second + 1e-6), (first, second)
    return g, memory


def textbook_adapt(
    name: str, loss_fn: Any, meta: MetaParams, support: Any, key: jax.Array, num_steps: int,
    *, constant_gradient: bool = False, gates: Any = None,
) -> list[Any]:  # fmt: skip
    """MAML as a Python loop: the parameters before each step and after the last one."""
    trajectory = [meta.init]
    leaves, treedef = jax.tree.flatten(meta.init)
    memories = [(jnp.zeros_like(leaf), jnp.zeros_like(leaf)) for leaf in leaves]
    shared = jnp.ndim(meta.step_sizes) == 0 if not isinstance(meta.step_sizes, dict) else 0
    alphas = [meta.step_sizes] * len(leaves) if shared else jax.tree.leaves(meta.step_sizes)
    for k in range(num_steps):
        step_key = jax.random.fold_in(key, k)
        grads = jax.grad(lambda p, s=step_key: loss_fn(p, support, s)[0])(trajectory[-1])
        if constant_gradient:
            grads = jax.lax.stop_gradient(grads)
        for i, g in enumerate(jax.tree.leaves(grads)):
            mu = meta.optimizer["momentum"]
            direction, memories[i] = textbook_direction(name, mu, memories[i], g, k + 1)
            gate = 1.0 if gates is None else jax.nn.sigmoid(jax.tree.leaves(meta.lengths)[i] - k)
            leaves[i] = leaves[i] - alphas[i] * gate * direction
        trajectory.append(treedef.unflatten(leaves))
    return trajectory
