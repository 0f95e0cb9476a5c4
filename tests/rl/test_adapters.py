"""Environments of gymnax and brax as families of tasks, where these are installed."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from maml_jax.rl import ENVIRONMENTS, register_environment, testing
from maml_jax.rl.adapters import BraxEnvironment, GymnaxEnvironment

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def own_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ENVIRONMENTS, "_entries", dict(ENVIRONMENTS))


@pytest.mark.parametrize(("name", "parameter"), [("Pendulum-v1", "g"), ("CartPole-v1", "gravity")])
def test_a_gymnax_environment_is_a_family_of_its_parameters(name: str, parameter: str) -> None:
    gymnax = pytest.importorskip("gymnax")
    environment, params = gymnax.make(name)

    def sample(key: Any) -> Any:
        return params.replace(**{parameter: jax.random.uniform(key, minval=5.0, maxval=15.0)})

    register_environment("own", lambda: GymnaxEnvironment(environment, sample))
    if name == "CartPole-v1":  # each step is rewarded with 1 until the pole falls
        own = ENVIRONMENTS["own"]()
        assert own.discrete
        assert own.action_size == 2
    testing.check_environment("own")


def test_a_brax_environment_is_a_family_of_rewards() -> None:
    envs = pytest.importorskip("brax.envs")
    environment = envs.get_environment("fast")

    def reward(goal: Any, before: Any, action: Any, after: Any) -> Any:
        return -jnp.abs(after.obs[0] - goal)

    own = BraxEnvironment(environment, lambda key: jax.random.uniform(key), reward=reward)
    register_environment("own", lambda: own)
    testing.check_environment("own")
