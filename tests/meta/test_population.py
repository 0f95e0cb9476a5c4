"""A member of a population is the run that it would be alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maml_jax import init_state, make_train_loop, optax_outer, outer_chain
from maml_jax.meta.population import Population, make_population_step, member, stack
from maml_jax.parallel import make_population_loop
from tests.inner.problems import assert_close
from tests.inner.problems import float64 as float64
from tests.meta.problems import TASKS, bowl, fresh_meta_params, make_step, sample_point

pytestmark = pytest.mark.usefixtures("float64")
STEPS = 50
# Of four members: learning rate, clipping, and the query loss's factor, which is infinite for one.
VALUES = {
    "rate": np.array([0.01, 0.05, 0.02, 0.03]),
    "clip": np.array([0.5, 1.0, 10.0, 0.1]),
    "factor": np.array([1.0, 1.0, np.inf, 2.0]),
}


def make(values):
    """The train step of one member, of numbers or of what a trace has in their place."""

    def query_loss(params, point, key):
        loss, aux = bowl(params, point, key)
        return values["factor"] * loss, aux

    optimizers = {"init": optax.adam(values["rate"]), "step_sizes": optax.sgd(values["rate"])}
    outer = optax_outer(outer_chain(optimizers, clip_norm=values["clip"]))
    return make_step(query_loss_fn=query_loss, outer=outer, task_clip_norm=values["clip"])


def first(index):
    values = member(VALUES, index)
    return init_state(fresh_meta_params(), make(values).outer, jax.random.key(index))


@pytest.fixture(scope="module")
def alone():
    """State and metrics of each member on its own, with and without a dispatch in between."""
    with jax.enable_x64(True):
        ends = []
        for index in range(4):
            step = make({name: float(of[index]) for name, of in VALUES.items()})
            loop = make_train_loop(step, meta_batch_size=TASKS, devices=jax.devices()[:1])
            ends.append(jax.device_get(loop(first(index), STEPS)))
    return ends


def train(devices, dispatches=(STEPS,), chunk=None, active=None):
    step = make_population_step(make, members_per_chunk=chunk)
    loop = make_population_loop(step, meta_batch_size=TASKS, devices=jax.devices()[:devices])
    values = {name: jnp.asarray(of) for name, of in VALUES.items()}
    population = Population(stack([first(index) for index in range(4)]), values, active)
    for number in dispatches:
        population, metrics = loop(population, number)
    return population, metrics


@pytest.mark.parametrize(
    ("devices", "dispatches", "chunk"),
    [
        pytest.param(1, (STEPS,), None, marks=pytest.mark.slow),
        (4, (20, 30), 1),
        pytest.param(8, (STEPS,), None, marks=pytest.mark.slow),
    ],
)
def test_members_equal_single_runs(alone, devices, dispatches, chunk):
    """Also beside one whose updates are never finite; 4 devices split members, 8 split tasks."""
    population, metrics = train(devices, dispatches, chunk)
    for index, (state, alone_metrics) in enumerate(alone):
        of = member(population.states, index)
        assert_close(of._replace(key=()), state._replace(key=()), rtol=1e-9)
        assert of.skipped == (STEPS if index == 2 else 0)
        if dispatches == (STEPS,):
            assert_close(member(metrics, index), alone_metrics, rtol=1e-9)


def test_members_draw_tasks_of_their_own():
    def with_position(params, point, key):
        return bowl(params, point, key)[0], {"position": point[0]}

    step = make_population_step(lambda _: make_step(loss_fn=with_position, sample=sample_point))
    loop = make_population_loop(step, meta_batch_size=TASKS, devices=jax.devices()[:1])
    states = [init_state(fresh_meta_params(), make_step().outer, jax.random.key(s)) for s in (0, 1)]
    metrics = loop(Population(stack(states)), 1)[1]
    assert len(set(metrics["position"].tolist())) == 2


def test_a_member_that_is_not_active_stays_as_it_is():
    active = jnp.array([True, False, True, True])
    population, _ = train(1, (3,), active=active)
    assert population.states.step.tolist() == [3, 0, 3, 3]
    of, before = (tree._replace(key=()) for tree in (member(population.states, 1), first(1)))
    assert_close(of, before, rtol=0)


def test_a_state_is_no_population():
    loop = make_population_loop(make_population_step(make), meta_batch_size=TASKS)
    with pytest.raises(TypeError, match="population is a TrainState"):
        loop(first(0), 1)
