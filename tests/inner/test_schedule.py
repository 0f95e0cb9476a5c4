"""A loop that is compiled for a schedule equals the masked loop, in value and gradient."""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from maml_jax import Examples, InnerLoop, MetaParams
from maml_jax.inner.optimizers.registry import (
    INNER_OPTIMIZERS,
    initial_hyper_params,
    make_inner_optimizer,
)
from maml_jax.lengths import GATES, Gates, Schedule, count_flops, schedule_of
from maml_jax.params import GRANULARITIES, merge_params, split_floats, split_params, with_paths
from tests.inner.problems import assert_close, assert_moves, float64  # noqa: F401
from tests.marks import slow_but

STEPS = 4
# Layer -> the steps that its values take: some channels halt before others, and some never move.
LENGTHS = {"body": [0, 1], "head": [3, 2]}
ORDER = ("body", "head")


def params() -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(2), 2)
    shapes = ((2, 4), (4, 2))
    return {
        name: {"kernel": 0.7 * jax.random.normal(key, shape), "shift": jnp.full(shape[1], 0.1)}
        for name, key, shape in zip(ORDER, keys, shapes, strict=True)
    }


def network(params: Any, inputs: jax.Array) -> jax.Array:
    hidden = inputs
    for name in ORDER:
        hidden = hidden @ params[name]["kernel"] + params[name]["shift"]
        if name != "head":
            hidden = (hidden - hidden.mean(0)) / jnp.sqrt(hidden.var(0) + 0.1)  # of the batch
            hidden = jnp.tanh(hidden)
    return hidden


def loss(params: Any, data: Examples, key: Any) -> tuple[jax.Array, dict[str, Any]]:
    noise = (jax.random.key_data(key)[-1] % 1000).astype(data.inputs.dtype) / 2000
    errors = network(params, data.inputs) - data.targets - noise
    return jnp.mean(errors**2), {"mae": jnp.mean(jnp.abs(errors))}


def task(seed: int = 0) -> tuple[Examples, Examples]:
    keys = jax.random.split(jax.random.key(seed), 4)
    inputs, targets = (jax.random.normal(keys[i], (6, 2)) for i in (0, 1))
    more, others = (jax.random.normal(keys[i], (6, 2)) for i in (2, 3))
    return Examples(inputs, targets), Examples(more, others)


def learned(gates: Gates, adapted: Any, steps: Any = LENGTHS) -> Any:
    """Learned values whose hard lengths are those of `steps`, in turn over a group's values."""
    init = gates.init(adapted, 1.0, jax.random.key(0))
    values = {}
    for name, value in init.items():
        chosen = np.asarray(steps.get(name.partition("/")[0], [2, 1]))
        shape = value.shape[1:] if gates.kind.per_step else value.shape
        hard = np.resize(chosen, shape)
        if gates.kind.is_length:
            values[name] = jnp.asarray(hard, float)
        elif gates.kind.per_step:
            k = np.arange(STEPS).reshape(-1, *(1,) * hard.ndim)
            values[name] = jnp.where(k < hard, 5.0, -5.0)
        else:
            values[name] = jnp.where(hard > 1, 0.5, -0.5)
    return values


def hard_gates(gate: str, granularity: str, adapted: Any) -> tuple[Any, Any, Schedule]:
    gates = Gates(gate, granularity, num_steps=STEPS)
    lengths = learned(gates, adapted)
    return gates.hard, lengths, schedule_of(gates.hard, lengths, adapted, STEPS)


def compare(inner_loop: InnerLoop, schedule: Schedule, meta_params: MetaParams) -> None:
    """Compares the losses at every step, what has adapted and all meta-gradients of two tasks."""
    tasks = jax.tree.map(lambda *of: jnp.stack(of), task(0), task(1))
    keys = jax.random.split(jax.random.key(1), 2)

    def objective(meta_params: MetaParams, inner_loop: InnerLoop) -> Any:
        def of_task(episode: Any, key: Any) -> Any:
            def query_loss(params: Any, k: Any) -> jax.Array:
                return loss(params, episode[1], key)[0]

            done = inner_loop(meta_params, episode[0], key, monitor=query_loss)
            value = query_loss(done.params, 0)
            if not inner_loop.estimator.only_init:
                value += done.monitored[1:] @ jnp.arange(1.0, STEPS + 1)
            return value, done._replace(carry=())

        values, outcomes = jax.vmap(of_task)(tasks, keys)
        return jnp.mean(values), outcomes

    def run(meta_params: MetaParams, inner_loop: InnerLoop) -> Any:
        learned, others = split_floats(meta_params)
        return jax.value_and_grad(
            lambda learned: objective(merge_params(learned, others), inner_loop), has_aux=True
        )(learned)

    compiled = dataclasses.replace(inner_loop, schedule=schedule)
    masked, compiled = jax.jit(lambda meta: (run(meta, inner_loop), run(meta, compiled)))(
        meta_params
    )
    chex.assert_shape(masked[0][1].losses, (2, STEPS))
    assert_moves(masked[1].init["head"])
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(masked))
    assert_close(compiled, masked, rtol=1e-10, atol=1e-12 * scale)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("gate", "granularity"),
    slow_but(
        [("ramp", "channel")],
        {(gate, "channel"): 0 for gate in GATES} | {("ramp", of): 0 for of in GRANULARITIES},
    ),
)
def test_every_gate(gate: str, granularity: str) -> None:
    init = params()
    gates, lengths, schedule = hard_gates(gate, granularity, init)
    assert schedule.most == (STEPS if gate == "binary" else 2 if granularity == "global" else 3)
    inner_loop = InnerLoop(loss, num_steps=STEPS, gates=gates)
    compare(inner_loop, schedule, MetaParams(init, lengths, 0.1))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", slow_but(["meta_curvature_momentum"], INNER_OPTIMIZERS))
def test_every_optimizer(name: str) -> None:
    init = params()
    gates, lengths, schedule = hard_gates("ramp", "channel", init)
    granularity = "tensor"
    hyper = initial_hyper_params(
        name, init, step_size=0.1, momentum=0.5, inverse_condition=0.2, granularity=granularity
    )
    make_optimizer = make_inner_optimizer(name, init, STEPS, granularity)
    inner_loop = InnerLoop(loss, make_optimizer, num_steps=STEPS, gates=gates)
    alpha = 1.0 if INNER_OPTIMIZERS[name].own_step else 0.1
    compare(inner_loop, schedule, MetaParams(init, lengths, alpha, hyper))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "estimator",
    slow_but(["exact"], ["exact", "reverse", "first_order", "implicit", "reptile"]),
)
def test_every_meta_gradient(estimator: str) -> None:
    init = params()
    gates, lengths, schedule = hard_gates("ramp", "channel", init)
    proximal = 2.0 if estimator == "implicit" else 0.0
    inner_loop = InnerLoop(
        loss, num_steps=STEPS, gates=gates, meta_gradient=estimator, proximal=proximal
    )
    compare(inner_loop, schedule, MetaParams(init, lengths, 0.1))


@pytest.mark.usefixtures("float64")
def test_optimizer_with_a_value_per_tensor() -> None:
    """One that does not accept a smaller tree than that of all parameters."""
    init = params()
    gates, lengths, schedule = hard_gates("ramp", "channel", init)
    factors = jax.tree.map(lambda leaf: 1.0 + leaf.mean(), init)

    def make_optimizer(hyper: Any) -> optax.GradientTransformation:
        times = optax.stateless(lambda updates, params: jax.tree.map(jnp.multiply, updates, hyper))
        return optax.chain(times, optax.trace(0.9))

    inner_loop = InnerLoop(loss, make_optimizer, num_steps=STEPS, gates=gates)
    compare(inner_loop, schedule, MetaParams(init, lengths, 0.1, factors))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("last", [0, STEPS + 2])
def test_all_frozen_and_all_alive(last: int) -> None:
    init = params()
    gates = Gates("ramp", "tensor", num_steps=STEPS)
    lengths = gates.init(init, min(last, STEPS), jax.random.key(0))
    schedule = schedule_of(gates.hard, lengths, init, STEPS)
    assert set(schedule.last_steps.values()) == {min(last, STEPS)}
    assert len(schedule.segments(STEPS)) == 1
    schedule = Schedule(dict.fromkeys(schedule.last_steps, last))
    compare(
        InnerLoop(loss, num_steps=STEPS, gates=gates.hard), schedule, MetaParams(init, lengths, 0.1)
    )


@pytest.mark.usefixtures("float64")
def test_frozen_parameters_and_rows_for_every_step() -> None:
    init = params()
    init["rows"] = 0.1 * jnp.arange(1.0, STEPS + 2)

    def at_step(params: Any, k: jax.Array) -> Any:
        return {**params, "rows": params["rows"][k]}

    def with_rows(params: Any, data: Any, key: Any) -> Any:
        return loss(params, data._replace(inputs=data.inputs + params["rows"]), key)

    def adapts(path: str) -> bool:
        return not path.startswith(("rows", "body"))

    adapted = split_params(init, adapts)[0]
    gates, lengths, schedule = hard_gates("ramp", "channel", adapted)
    inner_loop = InnerLoop(with_rows, num_steps=STEPS, gates=gates, adapts=adapts, at_step=at_step)
    compare_rows = dataclasses.replace(inner_loop, schedule=schedule)
    key, meta_params = jax.random.key(0), MetaParams(init, lengths, 0.1)

    def run(inner_loop: InnerLoop) -> Any:
        def objective(meta: MetaParams) -> Any:
            done = inner_loop(meta, task()[0], key)
            return with_rows(done.params, task()[1], key)[0], done.losses

        return jax.jit(jax.value_and_grad(objective, has_aux=True))(meta_params)

    assert_close(run(compare_rows), run(inner_loop), rtol=1e-10)


@pytest.mark.usefixtures("float64")
def test_pieces_continue_a_schedule() -> None:
    init = params()
    gates, lengths, schedule = hard_gates("ramp", "channel", init)
    make_optimizer = make_inner_optimizer("heavy_ball", init, STEPS)
    hyper = initial_hyper_params(
        "heavy_ball", init, step_size=0.1, momentum=0.5, inverse_condition=0.2
    )
    whole = InnerLoop(loss, make_optimizer, num_steps=STEPS, gates=gates, schedule=schedule)
    first, second = (dataclasses.replace(whole, num_steps=number) for number in (2, STEPS - 2))
    meta_params, key = MetaParams(init, lengths, 0.1, hyper), jax.random.key(4)
    begun = first(meta_params, task()[0], key)
    done = second(meta_params, task()[0], key, start=2, carry=begun.carry)
    assert_close(done.params, whole(meta_params, task()[0], key).params, rtol=1e-12)


def test_the_program_does_what_remains() -> None:
    """What is known is computed once, and the rest of a step only for what moves."""
    init, (support, _) = params(), task()
    schedule = Schedule({path: 3 if path.startswith("head") else 0 for path in with_paths(init)})
    inner_loop = InnerLoop(loss, num_steps=STEPS, schedule=schedule)
    examples, features = len(support.inputs), 2 * 6 * 2 * 4
    head = 2 * examples * 4 * 2  # of the product, and of its weights' gradient
    idle = head  # the support loss is the same in all steps that move nothing, but for its noise

    def adapt(meta_params: MetaParams) -> Any:
        return inner_loop(meta_params, support, jax.random.key(0)).losses

    assert count_flops(adapt, MetaParams(init, (), 0.1)) == features + 3 * 2 * head + idle


def test_a_schedule_of_other_tensors_is_refused() -> None:
    init = params()
    wrong = Schedule({"body/shift": 1})
    with pytest.raises(ValueError, match="tensor 'body/kernel' has no last step"):
        InnerLoop(loss, num_steps=2, schedule=wrong)(
            MetaParams(init, (), 0.1), task()[0], jax.random.key(0)
        )
    more = Schedule({**dict.fromkeys(with_paths(init), 1), "extra": 1})
    with pytest.raises(ValueError, match="tensor 'extra' is unknown"):
        InnerLoop(loss, num_steps=2, schedule=more)(
            MetaParams(init, (), 0.1), task()[0], jax.random.key(0)
        )


def test_traced_lengths_are_refused() -> None:
    gates = Gates("ramp", "tensor", num_steps=STEPS)

    def make(lengths: Any) -> jax.Array:
        return jnp.asarray(schedule_of(gates.hard, lengths, params(), STEPS).most)

    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(make)(gates.init(params(), 2.0, jax.random.key(0)))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("estimator", "pieces"),
    [("exact", 3), ("exact", 9), ("reverse", 3), ("reverse", 9)],
)
@pytest.mark.slow
def test_checkpointed_pieces_change_nothing(estimator: str, pieces: int) -> None:
    init = params()
    gates, lengths, schedule = hard_gates("ramp", "channel", init)

    def run(**options: Any) -> Any:
        inner_loop = InnerLoop(
            loss, num_steps=STEPS, gates=gates, meta_gradient=estimator, **options
        )

        def objective(meta: MetaParams) -> Any:
            done = inner_loop(
                meta,
                task()[0],
                jax.random.key(0),
                monitor=lambda p, k: loss(p, task()[1], jax.random.key(1))[0],
            )
            return loss(done.params, task()[1], jax.random.key(1))[
                0
            ] + done.monitored.sum(), done.losses

        return jax.jit(jax.value_and_grad(objective, has_aux=True))(MetaParams(init, lengths, 0.1))

    expected = run(checkpoint_segments=1)
    assert_close(run(checkpoint_segments=pieces), expected, rtol=1e-12)
    assert_close(run(checkpoint_segments=pieces, schedule=schedule), expected, rtol=1e-10)
    flat = ravel_pytree(expected[1])[0]
    assert np.abs(flat).max() > 1e-3
