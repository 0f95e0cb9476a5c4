"""A train step whose update is its meta-gradient, and tasks that go wrong on demand."""

from functools import cache

import jax
import jax.numpy as jnp
import optax

from maml_jax import (
    InnerLoop,
    MetaParams,
    Objective,
    TrainStep,
    init_state,
    make_train_loop,
    optax_outer,
    outer_chain,
    sgd,
)
from maml_jax.keys import task_keys

TASKS, INNER_STEPS = 8, 2
UNIT_STEP = optax_outer(outer_chain({"init": optax.sgd(1.0), "step_sizes": optax.sgd(1.0)}))


def sample_point(key):
    """A task is a point c in the plane."""
    point = jax.random.normal(key, (2,))
    return point, point


def bowl(params, point, key):
    """A smooth loss that is not quadratic: its Hessian depends on the parameters."""
    del key
    return jnp.sum(jnp.log(jnp.cosh(params - point))), {"distance": jnp.abs(params - point).sum()}


def fresh_meta_params():
    return MetaParams(jnp.array([0.5, -0.25]), step_sizes=jnp.asarray(0.1))


def make_step(*, loss_fn=bowl, query_loss_fn=None, sample=sample_point, outer=UNIT_STEP, **options):
    inner_loop = InnerLoop(loss_fn, sgd, num_steps=INNER_STEPS)
    objective = Objective(inner_loop, query_loss_fn or loss_fn)
    return TrainStep(sample, objective, outer, **options)


def run(step, *, devices=None, dispatches=(1,), outer=UNIT_STEP, seed=0, meta=None):
    """The state and the metrics after each dispatch; devices=None runs the step without a loop."""
    state = init_state(meta or fresh_meta_params(), outer, jax.random.key(seed))
    if devices is None:
        assert set(dispatches) == {1}
        bare = jax.jit(step)
        loop = lambda state, n: bare(state, jnp.arange(TASKS))  # noqa: E731
    else:
        loop = make_train_loop(step, meta_batch_size=TASKS, devices=jax.devices()[:devices])
    history = []
    for number in dispatches:
        state, metrics = loop(state, number)
        history.append(jax.device_get((state._replace(key=()), metrics)))
    return history


def episode_keys(step=0, seed=0):
    """Keys [B] that the sampler receives in a meta-step."""
    keys = task_keys(jax.random.key(seed), jnp.asarray(step), jnp.arange(TASKS))
    return jax.vmap(jax.random.split)(keys)[:, 0]


@cache
def task_gradients(step):
    """Meta-gradients of all tasks at the fresh meta-parameters, by Python loops."""

    def query_loss(meta, point):
        params = meta.init
        for _ in range(INNER_STEPS):
            grads = jax.grad(lambda p: bowl(p, point, None)[0])(params)
            params = params - meta.step_sizes * grads
        return bowl(params, point, None)[0]

    gradient = jax.jit(jax.grad(query_loss))
    return [gradient(fresh_meta_params(), sample_point(key)[0]) for key in episode_keys(step)]


def mean_gradient(tasks, *, step=0):
    grads = [task_gradients(step)[i] for i in tasks]
    return jax.tree.map(lambda *g: sum(g) / len(grads), *grads)
