"""Networks for images: a compiled loop equals the masked one, on any number of devices."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maml_jax import InnerLoop, MetaParams, init_state, make_train_loop, optax_outer, outer_chain
from maml_jax.lengths import Gates, schedule_of
from maml_jax.meta import Objective, TrainStep
from maml_jax.models.conv4 import Conv4
from maml_jax.models.losses import classification_loss
from maml_jax.models.normalization import at_step, norm_shifts_do_not_adapt, with_steps
from maml_jax.params import split_params
from tests.inner.problems import assert_close, assert_moves, float64  # noqa: F401
from tests.models.problems import episode, random_params

STEPS, TASKS = 3, 4
SIZE = 17  # 2 × 2 after four blocks, so that groups of one channel have a variance
LAST = {"conv_0": 0, "conv_1": 1, "conv_2": 0, "conv_3": 2, "head": 3}


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("normalization", ["batch", "per_step", "per_step_last", "group"])
def test_a_meta_step_is_that_of_the_masked_loop(normalization: str) -> None:
    model = Conv4(ways=2, filters=2, normalization=normalization)
    init = with_steps(random_params(model, jnp.zeros((2, SIZE, SIZE, 1))), STEPS)
    adapted = split_params(init, norm_shifts_do_not_adapt)[0]
    gates = Gates("ramp", "tensor", num_steps=STEPS)
    lengths = {
        path: jnp.full(value.shape, float(LAST[path.partition("/")[0]]))
        for path, value in gates.init(adapted, 1.0, jax.random.key(0)).items()
    }
    loss = classification_loss(model)
    masked = InnerLoop(
        loss, num_steps=STEPS, gates=gates.hard, adapts=norm_shifts_do_not_adapt, at_step=at_step
    )
    compiled = dataclasses.replace(
        masked, schedule=schedule_of(gates.hard, lengths, adapted, STEPS)
    )
    meta_params = MetaParams(init, lengths, 0.4)
    outer = optax_outer(outer_chain({name: optax.sgd(1.0) for name in ("init", "step_sizes")}))

    def sample(key: Any) -> Any:
        noise = jax.random.normal(key, (2, SIZE, SIZE, 1))
        of = episode(SIZE, 1, seed=3)
        return of._replace(support=of.support._replace(inputs=of.support.inputs + noise))

    def moved(inner_loop: InnerLoop, devices: int) -> Any:
        """The meta-gradient, which is the update of a unit step."""
        step = TrainStep(sample, Objective(inner_loop, loss), outer)
        loop = make_train_loop(step, meta_batch_size=TASKS, devices=jax.devices()[:devices])
        state, _ = loop(init_state(meta_params, outer, jax.random.key(1)), 1)
        return jax.tree.map(lambda a, b: np.asarray(a - b), meta_params, state.meta_params)

    expected = moved(masked, 1)
    assert_moves(expected.init["conv_0"]["kernel"])
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    for devices in (1, 2, 4):
        assert_close(moved(compiled, devices), expected, rtol=1e-10, atol=1e-12 * scale)
