"""Contract checks of registry entries, to be called in the tests of a module that adds some.

Each check takes the name of an entry. It raises an AssertionError that says what the entry must do
and how it failed. The package's own entries pass the same checks.

Example:
  >>> from maml_jax import testing
  >>> testing.check_gate("ramp")
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from maml_jax.errors import first_line
from maml_jax.inner.adapt import InnerLoop
from maml_jax.inner.optimizers import registry
from maml_jax.inner.optimizers.direction import points_downhill
from maml_jax.lengths.gates import GATES, Gates
from maml_jax.models.registry import MODELS
from maml_jax.params import GRANULARITIES, Grouped
from maml_jax.run.config import check_key, default_config, resolve
from maml_jax.run.problems import TASKS, Problem, build_model
from maml_jax.run.spec import RunSpec
from maml_jax.types import Array, Episode, EpisodeSampler, GateFn, MetaParams, Params, PyTree

_STEPS, _LENGTH = 6, 2.0


def _must(what: str, check: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a check, and turns its error into one that says what an entry must do."""
    try:
        return check(*args, **kwargs)
    except Exception as error:
        raise AssertionError(f"{what}: {error}") from error


def _resolve(values: dict[str, Any]) -> RunSpec:
    config = default_config()
    for key in values:
        check_key(key)
    config.update_from_flattened_dict(values)
    return resolve(config)


def check_inner_optimizer(name: str) -> None:
    """Checks the entry of `INNER_OPTIMIZERS` with this name.

    - `update` accepts the extra args `gate`, `step_size` and `value`, and keeps the shapes and the
      dtypes of gradients, float32 or bfloat16, and of the state, which may hold integers: it is
      traced once for all steps.
    - First directions point uphill; all, and meta-gradients, are finite where a gradient is 0.
    - On a small network with tanh, the meta-gradients `exact` and `reverse` agree with each other
      and with finite differences in float64.
    - The gradient of a coordinate with gate 0 does not change the others.

    Raises:
      AssertionError: the entry fails one of these.
      ValueError: there is no such entry.
    """
    of = f"inner optimizer {name!r} must"
    for dtype in (jnp.float32, jnp.bfloat16):
        _check_update(of, name, {"w": jnp.zeros((1, 3), dtype), "b": jnp.zeros((), dtype)})
    with jax.enable_x64(True):
        _check_in_inner_loop(of, name)


def _start(name: str, params: Params) -> tuple[Any, MetaParams]:
    """What makes the inner optimizer, and the meta-parameters at the start."""
    hyper = registry.initial_hyper_params(
        name, params, step_size=0.05, momentum=0.6, inverse_condition=0.1
    )
    alpha = 1.0 if registry.INNER_OPTIMIZERS[name].own_step else 0.05
    meta_params = MetaParams(params, (), jnp.asarray(alpha, float), hyper)
    return registry.make_inner_optimizer(name, params, _STEPS), meta_params


def _check_update(of: str, name: str, params: Params) -> None:
    make_optimizer, meta_params = _start(name, params)
    transform = optax.with_extra_args_support(make_optimizer(meta_params.optimizer))

    def update(grads: Params, state: PyTree) -> PyTree:
        extra = {"gate": params, "step_size": params, "value": jnp.ones(())}
        return transform.update(grads, state, params, **extra)

    given = jax.eval_shape(lambda grads: (grads, transform.init(grads)), params)
    made = _must(f"{of} accept gate, step_size and value", jax.eval_shape, update, *given)
    assert not points_downhill(transform, params), f"{of} return directions that point uphill"
    must = f"{of} keep the shapes and dtypes of gradients and state, or each step is traced anew"
    assert made == given, f"{must}: {given} became {made}"


class _Case(NamedTuple):
    """What a small network, and its last parameter, meet in the inner loop."""

    inputs: Any = np.array([[-1.5, 0.7], [-0.4, -1.2], [0.3, 0.2], [1.1, 0.9]])
    support: Any = np.array([0.4, -0.9, 0.6, 1.0])
    query: Any = np.array([0.1, -0.3, 1.2, 0.5])
    on: Any = np.ones(_STEPS)  # gate of the last parameter
    wild: Any = np.zeros(_STEPS)  # added to its gradient, but not to the loss


def _make_run(make_optimizer: Any, unravel: Any, estimator: str) -> Any:
    """(flat meta-parameters, case) -> (query loss, parameters [K+1, ...]), meta-gradient."""

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def run(flat: Array, case: _Case) -> tuple[Array, PyTree]:
        def loss(seen: Any, targets: Array, key: Array) -> tuple[Array, PyTree]:
            (hidden, out), k = seen
            errors = jnp.tanh(case.inputs @ hidden) @ out - targets
            zero = out[-1] - jax.lax.stop_gradient(out[-1])
            return jnp.mean(errors**2) + case.wild[k] * zero, ()

        inner_loop = InnerLoop(
            loss,
            make_optimizer,
            num_steps=_STEPS,
            gates=lambda _, params, k: (jnp.ones((2, 3)), jnp.ones(3).at[-1].set(case.on[k])),
            meta_gradient=estimator,
            at_step=lambda params, k: (params, k),
        )
        key = jax.random.key(0)
        done = inner_loop(unravel(flat), case.support, key, monitor=lambda seen, k: seen[0])
        return loss(done.params, case.query, key)[0], done.monitored

    return run


def _check_in_inner_loop(of: str, name: str) -> None:
    params = (np.array([[0.6, -1.1, 0.3], [-0.2, 0.4, 0.8]]), np.array([0.5, 0.9, -0.7]))
    make_optimizer, meta_params = _start(name, params)
    flat, unravel = ravel_pytree(meta_params)
    run, reverse = (_make_run(make_optimizer, unravel, name) for name in ("exact", "reverse"))
    start, case = np.asarray(flat), _Case()
    exact = _must(f"{of} run under jit", run, start, case)[1]
    optimum = np.concatenate([start[:6], np.zeros(3), start[9:]])  # the network's output is 0
    dead = case._replace(inputs=case.inputs * np.array([1, 0]))
    for outcome in (run(optimum, case._replace(support=np.zeros(4))), run(start, dead)):
        where = "where an inner gradient is exactly 0"
        _must(f"{of} have finite directions {where}", chex.assert_tree_all_finite, outcome[0])
        _must(f"{of} have finite meta-gradients {where}", chex.assert_tree_all_finite, outcome)
    for halt in (0, 2):
        halted = np.arange(_STEPS) >= halt
        calm = _Case(on=1.0 - halted)
        wild = calm._replace(wild=halted * np.array([50.0, 50, 50, -10, 100, -25]))
        (_, tame), (_, shaken) = run(start, calm)[0], run(start, wild)[0]
        must = f"{of} not let the gradient of a halted coordinate change the others"
        _must(must, chex.assert_trees_all_close, shaken, tame, rtol=1e-6)
    shifts = 1e-5 * np.eye(start.size)
    after, before = ([run(at, case)[0][0] for at in start + by] for by in (shifts, -shifts))
    numeric = (np.asarray(after) - np.asarray(before)) / 2e-5
    must = f"{of} have meta-gradients that agree with finite differences"
    _must(must, np.testing.assert_allclose, exact, numeric, rtol=1e-4, atol=1e-7)
    must = f"{of} have exact meta-gradients that agree with reverse mode"
    _must(must, np.testing.assert_allclose, exact, reverse(start, case)[1], rtol=1e-4, atol=1e-7)


def check_gate(name: str) -> None:
    """Checks the entry of `GATES` with this name.

    - At every granularity (per-step gates: channel and coarser), gates broadcast to the
      parameters, `init` gives the expected length, and hard lengths are within [0, K].
    - For learned values within their bounds, soft gates are within [0, 1], and the gradients of
      gates and expected lengths are finite and not all 0.
    - Hard gates are 0 or 1. If the learned values are lengths, hard gates never rise with k.
    - Gates have the dtype of the learned values, float32 or bfloat16.

    Raises:
      AssertionError: the entry fails one of these.
      ValueError: there is no such entry.
    """
    params = {"layer": {"kernel": jnp.zeros((8, 40)), "bias": jnp.zeros(40)}}
    names = [of for of in GRANULARITIES if of != "parameter" or not GATES.find(name).per_step]
    kinds = {of: Gates(name, of, num_steps=4) for of in names}
    values = {of: kinds[of].init(params, _LENGTH, jax.random.key(0)) for of in names}

    @jax.jit
    def lengths(values: dict[str, Grouped]) -> dict[str, tuple[Grouped, Grouped]]:
        return {
            of: (gates.hard_lengths(values[of]), gates.expected_lengths(values[of]))
            for of, gates in kinds.items()
        }

    for of, (hard, expected) in lengths(values).items():
        must = f"gate {name!r} at granularity {of!r} must"
        made = jax.eval_shape(kinds[of].soft(), values[of], params, jnp.int32(0))
        for m, p in zip(*map(jax.tree.leaves, (made, params)), strict=True):
            _must(f"{must} broadcast to the parameters", np.broadcast_to, np.ones(m.shape), p.shape)
        _check_lengths(must, kinds[of], ravel_pytree(hard)[0], ravel_pytree(expected)[0])
    _check_values(f"gate {name!r} must", kinds[names[0]], params)


def _check_lengths(of: str, gates: Gates, hard: Array, expected: Array) -> None:
    within = np.all((hard >= 0) & (hard <= gates.num_steps))
    assert within, f"{of} have hard lengths within [0, K]: they are {hard}"
    must = f"init of {of} give the length that is asked for"
    if gates.kind.is_length:
        _must(must, np.testing.assert_array_equal, hard, _LENGTH)
    elif hard.size > 10:  # a few random values may miss their mean
        _must(must, np.testing.assert_allclose, expected.mean(), _LENGTH, atol=0.4)


def _check_values(of: str, gates: Gates, params: Params) -> None:
    low, high = np.clip(gates.bounds, -10.0, 10.0)
    values = jax.tree.map(
        lambda value: np.linspace(low, high, value.size, dtype=value.dtype).reshape(value.shape),
        gates.init(params, _LENGTH, jax.random.key(0)),
    )

    def total(values: Grouped, temperature: float, key: Array | None) -> tuple[Array, Any]:
        def at_steps(gate_fn: GateFn) -> list[Array]:
            at_step = jax.vmap(partial(gate_fn, values, params))
            return jax.tree.leaves(at_step(jnp.arange(gates.num_steps)))

        soft, hard = at_steps(gates.soft(temperature, key)), at_steps(gates.hard)
        expected = gates.expected_lengths(values, temperature)
        return ravel_pytree((soft, expected))[0].sum(), (soft, hard)

    gradient = jax.jit(jax.grad(total, has_aux=True))
    for temperature, key in ((1.0, None), (0.3, jax.random.key(1))):
        grads, (soft, hard) = gradient(values, temperature, key)
        within = all(np.all((m >= 0) & (m <= 1)) for m in soft)
        assert within, f"{of} have soft values within [0, 1]: they are {soft}"
        must = f"{of} have finite gradients, also at the bounds of its learned values"
        _must(must, chex.assert_tree_all_finite, grads)
        assert optax.tree.norm(grads) > 0, f"{of} have gradients that are not all 0"
        for m in hard:
            assert np.all((m == 0) | (m == 1)), f"{of} have hard values 0 or 1: they are {m}"
            falls = not gates.kind.is_length or np.all(np.diff(m, axis=0) <= 0)
            assert falls, f"{of} have hard values that do not rise with k: they are {m}"
    for dtype in (jnp.float32, jnp.bfloat16):
        cast = optax.tree.cast((values, params), dtype)
        made = {m.dtype for m in jax.tree.leaves(jax.eval_shape(gates.soft(), *cast, jnp.int32(0)))}
        assert made == {jnp.dtype(dtype)}, f"{of} keep the dtype {jnp.dtype(dtype)}: it made {made}"


def check_task(name: str, **overrides: Any) -> None:
    """Checks the entry of `TASKS` with this name, built from a config.

    - The samplers of all streams give the same episode for the same key and another one for another
      key, also under jit and vmap.
    - Support and query examples are as many as was asked for, or as many for each of `task.ways`.
    - `init_params` depends on its key alone, and `predict` has a row for every example.
    - The loss is a finite scalar with a dict of finite scalar metrics. A gradient step changes it.

    Args:
      name: of the entry.
      **overrides: config keys and values, as `**{"model.hidden": (8,)}`. Unless they say otherwise,
        episodes have 2 support and 3 query examples.

    Raises:
      AssertionError: the entry fails one of these.
      UsageError: there is no such entry, or an override is not allowed.
    """
    sizes = {"task.shots": 2, "task.query_shots": 3, "eval.shots": 2, "eval.query_shots": 3}
    spec = _resolve({"task.name": name} | sizes | overrides)
    problem = TASKS[name].build(spec)
    for stream in ("train", "validation", "test"):
        asked = spec.task if stream == "train" else spec.eval
        sampler = problem.sampler(asked.shots, asked.query_shots, stream)
        episode = _check_sampler(of := f"{stream} sampler of task {name!r} must", sampler)
        rows, wanted = [len(data.targets) for data in episode], [asked.shots, asked.query_shots]
        fits = rows in (wanted, [spec.task.ways * number for number in wanted])
        assert fits, f"{of} give {wanted} support and query examples (of a class): it gives {rows}"
    _check_problem(f"of task {name!r} must", spec, problem, episode)


def _check_sampler(of: str, sampler: EpisodeSampler) -> Episode:
    keys = jax.random.split(jax.random.key(0), 2)
    compiled = jax.jit(sampler)
    first, second = (_must(f"{of} run under jit", compiled, key) for key in keys)
    again = jax.jit(lambda key: sampler(key))(keys[0])  # traced anew: chance beside the key shows
    _must(f"{of} give the same for the same key", chex.assert_trees_all_equal, again, first)
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    assert any(np.any(a != b) for a, b in pairs), f"{of} give another episode for another key"
    batch = _must(f"{of} run under vmap", jax.vmap(sampler), keys)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), first, second)
    _must(f"{of} give the same under vmap", chex.assert_trees_all_close, batch, both, rtol=1e-4)
    return Episode(*first)


def _check_problem(of: str, spec: RunSpec, problem: Problem, episode: Episode) -> None:
    (support, query), key = episode, jax.random.key(0)
    params, again = (jax.jit(lambda key: problem.init_params(key, 1))(key) for _ in range(2))
    _must(f"init_params {of} depend on its key", chex.assert_trees_all_equal, again, params)
    loss_of = jax.jit(
        lambda params, data: problem.loss(problem.at_step(params, jnp.int32(0)), data, key)
    )
    loss, metrics = loss_of(params, query)
    assert isinstance(metrics, dict), f"loss {of} return a dict of metrics: it returns {metrics}"
    values = [loss, *metrics.values()]
    _must(f"loss and metrics {of} be scalars", chex.assert_shape, values, ())
    _must(f"loss and metrics {of} be finite", chex.assert_tree_all_finite, values)
    rows = len(problem.predict(problem.at_step(params, jnp.int32(0)), query))
    assert rows == len(query.targets), f"predict {of} have one row per example: it has {rows}"
    (before, _), grads = jax.value_and_grad(loss_of, has_aux=True)(params, support)
    moved = jax.tree.map(lambda p, g: p - spec.inner.step_size * g, params, grads)
    after, _ = loss_of(moved, support)
    assert abs(after - before) > 0, f"loss {of} change in a gradient step: {before}, then {after}"


def check_model(name: str, **overrides: Any) -> None:
    """Checks the entry of `MODELS` with this name.

    - On inputs [S, 3], or [S, 16, 16, 1] if it needs images, it has finite outputs [S, outputs].
    - It has no variables but parameters. Its gradients are finite and not all 0.
    - vmap over parameters gives what a loop over them gives.

    Args:
      name: of the entry.
      **overrides: config keys and values, as `**{"model.hidden": (8,)}`.

    Raises:
      AssertionError: the entry fails one of these.
      ValueError: there is no such entry, or an override is not allowed.
    """
    of, images = f"model {name!r} must", MODELS.find(name).images_only
    task = {"task.name": "images" if images else "sinusoid"}
    model = build_model(_resolve({"model.name": name} | task | overrides), 4)
    keys = jax.random.split(jax.random.key(0), 2)
    inputs = jax.random.normal(keys[0], (6, 16, 16, 1) if images else (6, 3))
    try:
        variables = jax.jit(jax.vmap(model.init, (0, None)))(keys, inputs)
    except (TypeError, ValueError) as error:
        raise AssertionError(
            f"{of} take inputs {list(inputs.shape)} ({first_line(error)}); a network for images is "
            "registered with images_only=True"
        ) from error
    assert set(variables) == {"params"}, f"{of} have no variables but parameters"

    def total(variables: Params) -> tuple[Array, Array]:
        outputs = jnp.asarray(model.apply(variables, inputs))
        return jnp.vdot(outputs, jnp.arange(outputs.size)), outputs

    first = jax.tree.map(lambda leaf: leaf[0], variables)
    grads, outputs = jax.jit(jax.grad(total, has_aux=True))(first)
    _must(f"{of} have outputs [S, outputs]", chex.assert_shape, outputs, (6, 4))
    _must(f"{of} be finite, as its gradients", chex.assert_tree_all_finite, (outputs, grads))
    assert optax.tree.norm(grads) > 0, f"{of} have gradients that are not all 0"
    batched = jax.jit(jax.vmap(model.apply, (0, None)))(variables, inputs)[0]
    _must(
        f"{of} give the same under vmap", chex.assert_trees_all_close, batched, outputs, rtol=1e-3
    )
