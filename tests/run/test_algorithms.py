"""Contract tests over the table of algorithms: a new row is tested as it is added."""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from maml_jax import Episode, MetaParams, sgd
from maml_jax.errors import UsageError
from maml_jax.inner.optimizers.registry import INNER_OPTIMIZERS
from maml_jax.lengths.gates import GATES
from maml_jax.meta.train_step import TrainStep
from maml_jax.models.normalization import norm_shifts_do_not_adapt
from maml_jax.parallel import make_train_loop
from maml_jax.params import GRANULARITIES, expand, merge_params, split_params, with_paths
from maml_jax.run import training as training_module
from maml_jax.run.algorithms import ALGORITHMS
from maml_jax.run.build import build
from maml_jax.run.config import resolve
from maml_jax.run.loop import _next_stop
from maml_jax.run.problems import TASKS, Problem, Task
from tests.inner.problems import (
    adapt,
    assert_bits_equal,
    assert_close,
    assert_moves,
    central_differences,
    float64,  # noqa: F401, a fixture
    net,
    net_params,
    regression_data,
    regression_episode,
    regression_loss,
    textbook_adapt,
)
from tests.marks import slow_but
from tests.run.runs import tiny_config

STEPS = 3
SPECS = {name: resolve(tiny_config(algorithm=name)) for name in ALGORITHMS}


def entries(meta_gradient):
    """Names of the algorithms with this meta-gradient."""
    return [name for name in ALGORITHMS if SPECS[name].inner.meta_gradient == meta_gradient]


def test_every_meta_gradient_of_the_table_has_its_test():
    assert {name for kind in DERIVATIVE_TESTS for name in entries(kind)} == set(ALGORITHMS)


def smooth_predict(params, data):
    return net(params, data.inputs + params["norm"]["shift"])


def smooth_loss(params, data, key):
    shifted = data._replace(inputs=data.inputs + params["norm"]["shift"])
    return regression_loss(params, shifted, key)


def smooth_problem(spec):
    """A tanh network with a shift that MAML only meta-learns."""
    return Problem(
        sampler=lambda shots, query_shots, stream: lambda key: Episode(*regression_episode(key)),
        init_params=lambda key, num_steps: {**net_params(), "norm": {"shift": jnp.full(1, 0.1)}},
        loss=smooth_loss,
        predict=smooth_predict,
        adapts=norm_shifts_do_not_adapt,
    )


class Row:
    """A row's experiment on the smooth problem, and the objective that its train loop takes."""

    def __init__(self, name, monkeypatch, **changes):
        made = []

        def spy(sampler, objective, *rest, **options):
            made.append(objective)
            return TrainStep(sampler, objective, *rest, **options)

        monkeypatch.setitem(TASKS._entries, "sinusoid", Task(smooth_problem))
        monkeypatch.setattr(training_module, "TrainStep", spy)
        settings = {"inner__num_steps": STEPS, "inner__step_size": 0.1} | changes
        self.experiment = build(tiny_config(algorithm=name, **settings))
        self.objective = made[-1]
        state = self.experiment.init()
        self.extras = state.extras
        self.meta = state.meta_params
        self.episode = Episode(*regression_episode(jax.random.key(7)))

    def with_noise(self):
        """Every learned value apart from the others; lengths apart from integers."""
        rng = np.random.default_rng(0)

        def spread(leaf):
            return leaf + 0.45 * jnp.abs(leaf) * rng.uniform(-1, 1, leaf.shape)

        self.meta = self.meta._replace(
            init=jax.tree.map(spread, self.meta.init),
            lengths=jax.tree.map(spread, self.meta.lengths),
            step_sizes=jax.tree.map(spread, self.meta.step_sizes),
        )
        return self

    def loss(self, meta):
        step = jnp.asarray(3)
        return self.objective(meta, self.episode, jax.random.key(1), step, self.extras)[0]

    def adapted(self, meta):
        inner_loop = self.experiment.inner_loop(STEPS)
        return inner_loop(meta, self.episode.support, jax.random.key(1)).params


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "gate"), [*((name, "auto") for name in entries("exact")), ("adaptive_k", "ramp")]
)
def test_meta_gradients_equal_finite_differences(name, gate, monkeypatch):
    """Of all meta-parameters, those that the row does not learn too.

    But for κ of a straight-through gate, whose surrogate tests/inner/test_halting.py checks.
    """
    used = SPECS[name].lengths.gate if gate == "auto" else gate
    lengths = {"lengths__cost_weight": 0.3, "lengths__gate": gate} if used != "none" else {}
    row = Row(name, monkeypatch, outer__multi_step_anneal=10, **lengths).with_noise()
    for leaf in jax.tree.leaves(row.meta.lengths):
        assert np.abs(leaf - np.round(leaf)).min() > 1e-3
    grads = jax.jit(jax.grad(row.loss))(row.meta)
    differences = central_differences(row.loss, row.meta)
    if used.startswith("straight_through"):
        differences = differences._replace(lengths=grads.lengths)
    assert_close(grads, differences, rtol=1e-6, atol=1e-9)
    assert_moves(grads.init)
    if ALGORITHMS[name].train_steps(STEPS):
        assert_moves((grads.lengths, grads.step_sizes))


@pytest.mark.parametrize("granularity", slow_but(["channel"], GRANULARITIES))
@pytest.mark.parametrize("gate", GATES)
def test_every_gate_goes_with_every_granularity_and_cost(gate, granularity, monkeypatch):
    changes = {"lengths__gate": gate, "lengths__granularity": granularity}
    for cost in ("length", "compute") if granularity == "channel" else ("length",):
        settings = changes | {"lengths__cost": cost, "lengths__cost_weight": 0.1}
        if GATES[gate].per_step and granularity == "parameter":
            message = r"lengths: gate='survival' stores 3 logits .* use granularity 'channel'"
            with pytest.raises(UsageError, match=message):
                Row("adaptive_k", monkeypatch, **settings)
            continue
        row = Row("adaptive_k", monkeypatch, **settings)
        grads = jax.eval_shape(jax.grad(row.loss), row.meta)
        chex.assert_trees_all_equal_shapes_and_dtypes(grads, row.meta)


@jax.custom_vjp
def published_mask(scores):
    """sparse-MAML: m = 1[x > 0] with derivative ½ whatever x."""
    return jnp.where(scores > 0, 1.0, 0.0)


published_mask.defvjp(lambda scores: (published_mask(scores), None), lambda _, bar: (0.5 * bar,))


@jax.custom_vjp
def published_relu(scores):
    """sparse-ReLU-MAML: relu(x) with the identity as its derivative."""
    return jnp.where(scores > 0, scores, 0.0)


published_relu.defvjp(lambda scores: (published_relu(scores), None), lambda _, bar: (bar,))

# Row -> its step sizes as published, a tree like the parameters.
PUBLISHED_STEP_SIZES = {
    "fomaml": lambda meta: jax.tree.map(
        lambda p: jnp.broadcast_to(meta.step_sizes, p.shape), meta.init
    ),
    "sparse_maml": lambda meta: jax.tree.map(
        lambda scores: meta.step_sizes * published_mask(scores),
        expand(meta.lengths, meta.init, "parameter"),
    ),
    "sparse_relu_maml": lambda meta: jax.tree.map(
        published_relu, expand(meta.step_sizes, meta.init, "parameter")
    ),
}


def signed(tree):
    """Values on both sides of 0."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(-0.4, 0.4, leaf.shape)), tree)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", entries("first_order"))
def test_first_order_meta_gradients_equal_the_published_rule(name, monkeypatch):
    """A Python loop with constant inner gradients and the published surrogate derivatives."""
    row = Row(name, monkeypatch).with_noise()
    if SPECS[name].lengths.gate != "none":
        row.meta = row.meta._replace(lengths=signed(row.meta.lengths))
    if SPECS[name].inner.step_sizes != "fixed":
        row.meta = row.meta._replace(step_sizes=signed(row.meta.step_sizes))
    support, query = row.episode

    def textbook_loss(meta):
        rates = PUBLISHED_STEP_SIZES[name](meta)
        if not ALGORITHMS[name].norms_adapt:
            rates["norm"] = jax.tree.map(jnp.zeros_like, rates["norm"])
        # The textbook loop reads a momentum whatever the optimizer.
        plain = MetaParams(meta.init, step_sizes=rates, optimizer={"momentum": 0.0})
        params = textbook_adapt(
            "sgd", smooth_loss, plain, support, jax.random.key(1), STEPS, constant_gradient=True
        )[-1]
        return smooth_loss(params, query, None)[0]

    actual = jax.jit(jax.value_and_grad(row.loss))(row.meta)
    assert_close(actual, jax.value_and_grad(textbook_loss)(row.meta))
    _, grads = actual
    assert_moves((grads.init, grads.lengths, grads.step_sizes))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", entries("reptile"))
def test_reptile_gradient_of_a_row_is_the_way_back(name, monkeypatch):
    row = Row(name, monkeypatch).with_noise()
    grads = jax.jit(jax.grad(row.loss))(row.meta)
    way_back = jax.tree.map(jnp.subtract, row.meta.init, row.adapted(row.meta))
    assert_close(grads.init, way_back)
    assert_moves(grads.init)


@pytest.mark.parametrize("num_steps", [0, STEPS])
def test_reptile_gradient_is_exactly_the_way_back_and_0_for_what_stays(num_steps):
    """Also where φ itself is differentiated, whatever is done with it."""

    def loss(init):
        adaptation = adapt(
            regression_loss, sgd, MetaParams(init, step_sizes=0.1), regression_data(0),
            jax.random.key(0), num_steps=num_steps, meta_gradient="reptile",
            adapts=lambda path: path.startswith("head/"),
        )  # fmt: skip
        query = regression_loss(adaptation.params, regression_data(1), None)[0]
        return query + 7 * jnp.sum(adaptation.params["body"]["kernel"]), adaptation.params

    init = net_params()
    grads, params = jax.grad(loss, has_aux=True)(init)
    assert_bits_equal(grads["head"], jax.tree.map(jnp.subtract, init["head"], params["head"]))
    assert (np.abs(grads["head"]["kernel"]).max() > 1e-3) == (num_steps > 0)
    assert_bits_equal(grads["body"], jax.tree.map(jnp.zeros_like, init["body"]))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", entries("implicit"))
def test_implicit_gradient_is_that_of_the_converged_proximal_problem(name, monkeypatch):
    """For parameters that adapt and for those that only enter the inner loss."""
    converges = {"inner__num_steps": 200, "inner__cg_steps": 30, "inner__proximal": 2.0}
    row = Row(name, monkeypatch, **converges).with_noise()
    support, query = row.episode
    proximal = row.experiment.spec.inner.proximal

    def minimum(init):
        """φ* by Newton's method."""
        adapted, frozen = split_params(init, norm_shifts_do_not_adapt)
        origin, unravel = ravel_pytree(adapted)

        def inner_loss(flat):
            params = merge_params(unravel(flat), frozen)
            pull = 0.5 * proximal * jnp.sum((flat - origin) ** 2)
            return smooth_loss(params, support, None)[0] + pull

        flat = origin
        for _ in range(8):
            newton = jnp.linalg.solve(jax.hessian(inner_loss)(flat), jax.grad(inner_loss)(flat))
            flat = flat - newton
        return merge_params(unravel(flat), frozen), jnp.abs(jax.grad(inner_loss)(flat)).max()

    assert jax.jit(minimum)(row.meta.init)[1] < 1e-12
    grads = jax.jit(jax.grad(row.loss))(row.meta)
    differences = central_differences(
        lambda init: smooth_loss(minimum(init)[0], query, None)[0], row.meta.init
    )
    assert_close(grads.init, differences, rtol=1e-4, atol=1e-7)
    assert_moves(grads.init)
    assert_close(grads.step_sizes, jnp.zeros(()))


DERIVATIVE_TESTS = {
    "exact": test_meta_gradients_equal_finite_differences,
    "first_order": test_first_order_meta_gradients_equal_the_published_rule,
    "reptile": test_reptile_gradient_of_a_row_is_the_way_back,
    "implicit": test_implicit_gradient_is_that_of_the_converged_proximal_problem,
}


@pytest.mark.parametrize("name", entries("reptile") + entries("implicit"))
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths__gate": "ramp"}, r"lengths\.gate='ramp'"),
        ({"inner__step_sizes": "parameter"}, r"inner\.step_sizes='parameter'"),
        ({"outer__objective": "multi_step"}, r"needs outer\.objective='final'"),
    ],
)
def test_what_would_get_no_gradient_is_refused(name, changes, message):
    with pytest.raises(UsageError, match=message):
        build(tiny_config(algorithm=name, **changes))
    resolve(tiny_config(algorithm=name))


def on_devices(number, **changes):
    """The smooth problem, two inner steps, a train loop on so many forced devices."""
    # Not Adam, which makes updates of one size from gradients of any: errors would hide.
    settings = {"inner__num_steps": 2, "outer__optimizer": "sgd", "outer__learning_rate": 0.1}
    with pytest.MonkeyPatch.context() as patch:
        loop = partial(make_train_loop, devices=jax.devices()[:number])
        patch.setitem(TASKS._entries, "sinusoid", Task(smooth_problem))
        patch.setattr(training_module, "make_train_loop", loop)
        return build(tiny_config(**(settings | changes)))


def train(experiment, dispatches):
    """(states before and after each dispatch, metrics of the last); the loop donates its state."""
    state = experiment.init()
    history = [jax.device_get(state._replace(key=()))]
    for number in dispatches:
        state, metrics = experiment.train(state, number)
        history.append(jax.device_get(state._replace(key=())))
    return history, metrics


@cache
def train_entry(name, devices=1, dispatches=(4, 4)):
    return train(on_devices(devices, algorithm=name), dispatches)


@pytest.mark.parametrize(
    "name",
    slow_but(["adaptive_k"], ["reptile", "adaptive_k", "imaml", "maml_plus_plus"]),
)
def test_neither_devices_nor_dispatches_change_a_run(name):
    """Both at once: four steps on one device, and two times two on four; one row a kind."""
    one, four = train_entry(name)[0][1], train_entry(name, 4, (2, 2))[0][-1]
    assert int(one.step) == int(four.step) == 4

    def assert_same(got, want):
        # Relative to the leaf: sums in another order show most where they cancel.
        scale = float(np.abs(want).max())
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * scale)

    jax.tree.map(assert_same, four, one)


# The others are slow; test_algorithm_defaults trains all of them.
@pytest.mark.parametrize("name", slow_but(["maml", "maml_plus_plus", "sparse_maml"], ALGORITHMS))
def test_a_meta_step_moves_what_is_learned_and_keeps_shapes_and_dtypes(name):
    (before, after, _), metrics = train_entry(name)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, before)
    assert int(after.skipped) == int(metrics["nonfinite_tasks"]) == 0
    learned = {
        "init": True,
        "lengths": SPECS[name].learns_lengths,
        "step_sizes": SPECS[name].learns_step_sizes,
        "optimizer": False,
    }
    for field, yes in learned.items():
        old, new = (getattr(state.meta_params, field) for state in (before, after))
        moved = [
            not np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
        ]
        assert any(moved) == yes, field


@pytest.mark.parametrize(
    ("optimizer", "learned", "expected"),
    [
        pytest.param("heavy_ball", "none", {}, marks=pytest.mark.slow),
        pytest.param("heavy_ball", "tensor", {"momentum": 4}, marks=pytest.mark.slow),
        pytest.param(
            "chebyshev", "global", {"largest": 1, "inverse_condition": 1}, marks=pytest.mark.slow
        ),
        ("meta_curvature_momentum", "tensor", {"matrices": 3 + 3 * 64, "momentum": 4}),
    ],
)
def test_a_config_says_what_of_the_inner_optimizer_is_learned(optimizer, learned, expected):
    """Of a network 1-8-1: how many numbers of each hyper-parameter a meta-step moves."""
    config = tiny_config(
        inner__optimizer=optimizer, inner__learn_optimizer=learned, inner__num_steps=2
    )
    (before, after), _ = train(build(config), (4,))
    moved = {
        name: sum(int(np.sum(a != b)) for a, b in zip(*map(jax.tree.leaves, of), strict=True))
        for name in before.meta_params.optimizer
        if (of := [state.meta_params.optimizer[name] for state in (before, after)])
    }
    assert {name: number for name, number in moved.items() if number} == expected
    own_step = INNER_OPTIMIZERS[optimizer].own_step
    assert after.meta_params.step_sizes == (1.0 if own_step else config.inner.step_size)


def test_what_is_not_learned_does_not_count_where_tasks_are_clipped():
    """The gradient of a fixed rate as small as this one is larger than all others together."""

    def after(rates):
        config = {"inner__step_sizes": rates, "inner__step_size": 1e-6}
        config |= {"outer__optimizer": "sgd", "outer__step_sizes_learning_rate": 1e-9}
        config |= {"outer__learning_rate": 1.0, "outer__task_clip_norm": 1e-3}
        (_, state), _ = train(build(tiny_config(**config)), (4,))
        return state.meta_params.init

    # Logarithms of rates have gradients α ∂L/∂α, which are small here.
    assert_close(after("fixed"), after("tensor"), rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_meta_gradients_have_the_dtypes_of_the_parameters(name, dtype, monkeypatch):
    row = Row(name, monkeypatch)
    init = jax.tree.map(lambda leaf: leaf.astype(dtype), row.meta.init)
    grads = jax.eval_shape(jax.grad(row.loss), row.meta._replace(init=init))
    chex.assert_trees_all_equal_shapes_and_dtypes(grads.init, init)


LENGTH_ENTRIES = [
    name
    for name in ALGORITHMS
    if SPECS[name].lengths.gate != "none" and GATES[SPECS[name].lengths.gate].is_length
]


@pytest.mark.parametrize("name", LENGTH_ENTRIES)
def test_lengths_stay_within_their_bounds(name):
    """Outer steps larger than K push against both ends."""
    rates = {"inner__step_size": 1.0, "outer__lengths_learning_rate": 5.0}
    (_, state), _ = train(on_devices(1, algorithm=name, **rates), (4,))
    lengths = np.concatenate([np.ravel(x) for x in jax.tree.leaves(state.meta_params.lengths)])
    assert lengths.min() == 0.0
    assert lengths.max() == 2.0


ADAPTED = {
    "maml": {"dense_0/kernel", "dense_0/bias", "head/kernel", "head/bias"},
    "anil": {"head/kernel", "head/bias"},
    "boil": {"dense_0/kernel", "dense_0/bias"},
}


@pytest.mark.parametrize("name", ADAPTED)
def test_which_parameters_adapt(name):
    experiment = build(tiny_config(algorithm=name))
    init = experiment.init().meta_params
    key = jax.random.key(0)
    support = experiment.problem.sampler(10, 10, "train")(key).support
    adapted = experiment.inner_loop(2)(init, support, key).params
    before, after = with_paths(init.init), with_paths(adapted)
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    assert moved == ADAPTED[name]
    assert set(with_paths(experiment.learned.adapted)) == ADAPTED[name]


def test_first_order_until_is_fomaml_and_then_the_row_itself():
    phases, _ = train(on_devices(1, algorithm="maml", inner__first_order_until=4), (4, 4))
    first_order, _ = train_entry("fomaml")
    before, after = ([state.meta_params for state in run] for run in (phases, first_order))
    assert_bits_equal(before[1], after[1])
    assert not np.array_equal(before[2].init["head"]["kernel"], after[2].init["head"]["kernel"])


def stops(step=0, **changes):
    """Ends of all dispatches of a run that goes on from `step`."""
    spec = resolve(tiny_config(num_meta_steps=30, steps_per_dispatch=10, **changes))
    ends = []
    while step < spec.num_meta_steps:
        step = _next_stop(step, spec)
        ends.append(step)
    return ends


@pytest.mark.parametrize(
    ("until", "step", "expected"),
    [
        (0, 0, [10, 20, 30]),
        (15, 0, [10, 15, 20, 30]),
        (15, 12, [15, 20, 30]),
        (15, 15, [20, 30]),
        (20, 0, [10, 20, 30]),
        (1000, 0, [10, 20, 30]),
    ],
)
def test_a_dispatch_is_of_one_phase(until, step, expected):
    assert stops(step, inner__first_order_until=until) == expected
