"""Evaluation of given episodes, padded ones included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import maml_jax as mj
from maml_jax import keys
from maml_jax.models.losses import classification_loss
from maml_jax.models.mlp import MLP
from maml_jax.parallel import make_episode_evaluation
from maml_jax.tasks import sinusoid
from maml_jax.tasks.padding import pad_episodes


def test_given_episodes_are_evaluated_as_drawn_ones_are() -> None:
    model = MLP((4,), 1)

    def loss(params, data, key):
        return jnp.mean((model.apply({"params": params}, data.inputs) - data.targets) ** 2), {}

    key, loop = jax.random.key(1), mj.InnerLoop(loss, num_steps=1)
    params = model.init(jax.random.key(0), jnp.zeros((1, 1)))["params"]
    meta_params = mj.MetaParams(params, step_sizes=0.01)
    drawn = make_episode_evaluation(loop, loss, sinusoid.sample_episode, num_episodes=11, chunk=2)
    task_keys = keys.task_keys(key, jnp.int32(keys.EVALUATION), jnp.arange(11))
    episodes = jax.vmap(lambda of: sinusoid.sample_episode(keys.split_task_key(of)[0]))(task_keys)
    given = make_episode_evaluation(loop, loss, episodes=episodes, chunk=2)
    values = given(meta_params, key)
    assert values["loss"].shape == (11, 2)
    np.testing.assert_allclose(values["loss"], drawn(meta_params, key)["loss"], rtol=1e-6)
    estimates, counts = mj.evaluate(loop, loss, None, meta_params, key, episodes=episodes)
    assert counts.total == 11
    assert estimates["loss"].finite_mean == pytest.approx(values["loss"].mean(0), rel=1e-5)


def test_padded_episodes_equal_those_that_are_not() -> None:
    model, rng = MLP((4,), 3), np.random.default_rng(0)
    loss = classification_loss(model)
    loop = mj.InnerLoop(loss, num_steps=2)
    params = model.init(jax.random.key(0), jnp.zeros((1, 5)))["params"]
    meta_params = mj.MetaParams(params, step_sizes=0.3)

    def examples(size: int) -> mj.Examples:
        inputs = rng.normal(size=(size, 5)).astype(np.float32)
        return mj.Examples(inputs, rng.integers(0, 3, size).astype(np.int32))

    episodes = [mj.Episode(examples(s), examples(q)) for s, q in ((3, 4), (5, 2))]
    padded = make_episode_evaluation(loop, loss, episodes=pad_episodes(episodes))
    values = padded(meta_params, jax.random.key(0))
    for number, episode in enumerate(episodes):
        alone = jax.tree.map(lambda leaf: leaf[None], episode)
        one = make_episode_evaluation(loop, loss, episodes=alone, devices=jax.devices()[:1])
        expected = one(meta_params, jax.random.key(0))
        for name in ("loss", "accuracy"):
            np.testing.assert_allclose(values[name][number], expected[name][0], rtol=1e-5)


def test_episodes_are_given_in_one_way() -> None:
    with pytest.raises(ValueError, match="give either sample_episode or episodes"):
        make_episode_evaluation(None, None)
    uneven = (jnp.zeros((2, 3)), jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"\[\(2, 3\), \(4, 3\)\]; give \(support, query\) with a"):
        make_episode_evaluation(None, None, episodes=uneven)
