"""Mistakes of a first use are answered in one line, which says what to give."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maml_jax import (
    Episode,
    Examples,
    Gates,
    InnerLoop,
    LearnedLengths,
    MetaParams,
    Objective,
    TrainStep,
    evaluate,
    init_state,
    make_train_loop,
    multi_step_weights,
    outer_chain,
    parallel,
)
from maml_jax.errors import UsageError
from maml_jax.inner.step_sizes import STEP_SIZES
from maml_jax.models.losses import classification_loss
from maml_jax.models.mlp import MLP
from maml_jax.run.checkpoint import Checkpoints
from maml_jax.tasks.episodes import Pool, make_sampler
from tests.meta.problems import UNIT_STEP, bowl, fresh_meta_params, make_step, sample_point

PARAMS, KEY = jnp.zeros(2), jax.random.key(0)
LOOP = InnerLoop(bowl, num_steps=5)
META = MetaParams(PARAMS, step_sizes=0.1)


def with_aux(aux):
    return lambda params, data, key: (bowl(params, data, key)[0], aux)


def adapt(meta=META, loss=bowl, **options):
    return dataclasses.replace(LOOP, loss=loss)(meta, PARAMS, KEY, **options)


def objective(loss=bowl, meta=META, episode=(PARAMS, PARAMS), **options):
    return Objective(LOOP, loss, **options)(meta, episode, KEY, jnp.int32(0), {})


def measure(loss=bowl, sample=sample_point, meta=META, key=KEY, **options):
    return evaluate(LOOP, loss, sample, meta, key, num_episodes=2, **options)


@cache
def train_loop():
    return make_train_loop(make_step(), meta_batch_size=2, devices=jax.devices()[:1])


def train(number=1, state=None, **options):
    return train_loop()(state or init_state(META, UNIT_STEP, KEY), number, **options)


def reuse_a_state():
    state = init_state(META, UNIT_STEP, KEY)
    train(1, state)
    train(1, state)


def reuse_meta_params():
    state = init_state(META, UNIT_STEP, KEY)
    train(1, state)
    measure(meta=state.meta_params)


LENGTHS = LearnedLengths(Gates("ramp", num_steps=5))
WITH_LENGTHS = META._replace(lengths=LENGTHS.gates.init(PARAMS, 2.0, KEY))
MISTAKES = {  # call -> what its message says
    "loss without aux": (
        lambda: adapt(loss=lambda *_: 0.0),
        r"returns a float; return \(loss, aux",
    ),
    "loss of examples": (
        lambda: adapt(loss=lambda *_: (jnp.ones(3), {})),
        r"loss of shape \(3,\); return a scalar",
    ),
    "query loss without aux": (
        lambda: objective(loss=lambda *_: jnp.zeros(())),
        r"query_loss returns an array of shape \(\); return \(loss, aux",
    ),
    "evaluation of a loss without aux": (
        lambda: measure(loss=lambda *_: jnp.zeros(())),
        "query_loss returns an array",
    ),
    "text as aux": (lambda: objective(with_aux({"a": {"b": "x"}})), r"aux\['a/b'\] .* is a str"),
    **{
        f"aux named {name}": (
            lambda name=name: objective(with_aux({name: jnp.zeros(())})),
            f"an entry '{name}', .* use another name",
        )
        for name in ("loss", "query_loss", "support_loss", "nonfinite_tasks", "skipped_updates")
    },
    "key as aux": (lambda: objective(with_aux({"a": KEY})), r"metric 'a' has dtype key<fry>; use"),
    "evaluation of aux named loss": (lambda: measure(with_aux({"loss": 0.0})), "an entry 'loss'"),
    "aux named like the cost of lengths": (
        lambda: objective(with_aux({"cost": 0.0}), WITH_LENGTHS, lengths=LENGTHS),
        "an entry 'cost'",
    ),
    "plain parameters": (lambda: adapt({"w": PARAMS}), r"meta_params is a dict; give MetaParams\("),
    "list of parameters": (lambda: adapt([PARAMS]), "meta_params is a list of 1; give MetaParams"),
    "objective of plain parameters": (lambda: objective(meta=PARAMS), "is an array of shape"),
    "evaluation of plain parameters": (lambda: measure(meta={"w": PARAMS}), "is a dict"),
    "evaluation of a state": (
        lambda: measure(meta=init_state(META, UNIT_STEP, KEY)),
        r"is a TrainState; give .* state\.meta_params",
    ),
    "state of plain parameters": (lambda: init_state({"w": PARAMS}, UNIT_STEP, KEY), "is a dict"),
    "dict episode": (
        lambda: objective(episode={"support": PARAMS, "query": PARAMS}),
        r"an episode is a dict; sample_episode must return \(support, query\)",
    ),
    "episode of three": (lambda: measure(sample=lambda key: (key,) * 3), "is a tuple of 3"),
    "optax optimizer as outer step": (
        lambda: TrainStep(sample_point, Objective(LOOP, bowl), optax.adam(1e-3)),
        r"outer is an optax optimizer; give optax_outer\(outer_chain",
    ),
    "state of an optax optimizer": (
        lambda: init_state(META, optax.adam(1e-3), KEY),
        "outer is an optax optimizer",
    ),
    "factory as outer optimizer": (
        lambda: outer_chain({"init": optax.adam}),
        r"learned\['init'\] is a function; give an optax optimizer",
    ),
    "bare outer optimizer": (
        lambda: outer_chain(optax.adam(1e-3)),
        r"learned is a GradientTransformation\w*; give a dict",
    ),
    "unknown field": (lambda: make_step(learned=("inits",)), r"unknown fields \['inits'\]"),
    "optax optimizer as inner optimizer": (
        lambda: InnerLoop(bowl, optax.sgd(0.1), num_steps=1),
        "give a function .* as_direction",
    ),
    "updates as directions": (
        lambda: InnerLoop(bowl, lambda hyper: optax.adamw(0.1), num_steps=1),
        "point downhill.* use as_direction",
    ),
    "parameters as carry": (lambda: adapt(carry=PARAMS), "carry .*None to start from"),
    "state used again": (reuse_a_state, "state was given to a train loop, which reuses its memory"),
    "meta-parameters used again": (reuse_meta_params, "meta_params was given to a train loop"),
    "result as state": (lambda: train(state=(1, 2)), "state is a tuple of 2; use state, metrics ="),
    "no steps": (lambda: train(0), "num_steps=0 is not allowed; use 1 or more"),
    "half a step": (lambda: train(0.5), r"num_steps=0\.5 is no whole number"),
    "episodes of another number": (
        lambda: train(2, episodes=np.zeros((3, 2, 5))),
        r"episodes have an array of shape \(3, 2, 5\); .* = \[2, 2\]",
    ),
    "no tasks": (lambda: make_train_loop(make_step(), meta_batch_size=0), "meta_batch_size=0"),
    "no devices": (
        lambda: make_train_loop(make_step(), meta_batch_size=1, devices=[]),
        "devices is empty",
    ),
    "no episodes": (
        lambda: evaluate(LOOP, bowl, sample_point, META, KEY, num_episodes=0),
        "num_episodes=0",
    ),
    "empty chunks of episodes": (lambda: measure(chunk=0), "chunk=0 is not allowed"),
    "empty chunks of tasks": (lambda: make_step(tasks_per_chunk=0), "tasks_per_chunk=0"),
    "negative norm": (lambda: make_step(task_clip_norm=-1.0), r"task_clip_norm=-1\.0 is not"),
    "clipping to nothing": (lambda: outer_chain({"init": optax.sgd(1.0)}, clip=0.0), r"clip=0\.0"),
    "norm that is NaN": (
        lambda: outer_chain({"init": optax.sgd(1.0)}, clip_norm=float("nan")),
        "clip_norm=nan",
    ),
    "weights of another number of steps": (
        lambda: objective(step_weights=multi_step_weights(1, 10)),
        r"weights of shape \(1,\); return one for each of the 5 inner steps",
    ),
    "no step sizes": (
        lambda: adapt(MetaParams(PARAMS)),
        r"meta_params has no step sizes; give MetaParams\(params, step_sizes=0\.1\)",
    ),
    "values of learned step sizes": (
        lambda: adapt(META._replace(step_sizes=STEP_SIZES["tensor"].init(PARAMS, 0.1, 5))),
        r"learned values of STEP_SIZES\['tensor'\]; give InnerLoop\(",
    ),
    "a number as key": (lambda: init_state(META, UNIT_STEP, 0), r"key=0 is no key; give jax\.rand"),
    "a number as key of an evaluation": (lambda: measure(key=0), "is no key"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_in_one_line(name):
    call, message = MISTAKES[name]
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["rbg", "unsafe_rbg"])
def test_keys_that_depend_on_their_batch_are_refused(kind):
    key = jax.random.key(0, impl=kind)
    for call in (lambda: init_state(META, UNIT_STEP, key), lambda: measure(key=key)):
        with pytest.raises(ValueError, match=f"'{kind}' draws other tasks .*threefry2x32"):
            call()


def test_numbers_of_steps_may_be_arrays_and_keys_may_be_raw():
    state = init_state(META, UNIT_STEP, jax.random.PRNGKey(0))
    state, _ = train(np.int64(1), state)
    assert train(jnp.int32(1), state)[0].step == 2


@pytest.mark.parametrize(
    "error", [AssertionError(), RuntimeError("Unable to initialize backend 'cuda'\nmore lines")]
)
def test_a_platform_without_device_is_named(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "devices", fail)
    with pytest.raises(UsageError, match=r"JAX_PLATFORMS=cuda names no device") as caught:
        parallel.use_cpu_devices(1)
    assert len(str(caught.value).splitlines()) == 1


def test_checkpoints_take_a_path_as_text(tmp_path):
    checkpoints = Checkpoints(str(tmp_path / "here"), {}, keep=1)
    checkpoints.save(init_state(fresh_meta_params(), UNIT_STEP, KEY))
    checkpoints.close()
    assert (tmp_path / "here" / "0").is_dir()


def flattened(episode):
    return Episode(*(Examples(part.inputs.reshape(3, -1) / 255, part.targets) for part in episode))


def test_more_ways_than_outputs_are_refused():
    pool = Pool(np.zeros((4, 2, 2, 2, 1), np.uint8), np.full(4, 2, np.int32))
    sample = make_sampler(pool, ways=3, shots=1, query_shots=1, prepare=flattened)
    model = MLP(hidden=(), outputs=2)
    loss = classification_loss(model)
    meta = MetaParams(model.init(KEY, jnp.zeros((1, 4)))["params"], step_sizes=0.1)
    step = TrainStep(sample, Objective(InnerLoop(loss, num_steps=1), loss), UNIT_STEP)
    state = init_state(meta, UNIT_STEP, KEY)
    for call in (
        lambda: jax.eval_shape(step, state, jnp.arange(2)),
        lambda: evaluate(InnerLoop(loss, num_steps=1), loss, sample, meta, KEY, num_episodes=2),
    ):
        with pytest.raises(ValueError, match="has 3 classes, but the network has 2 outputs"):
            call()
