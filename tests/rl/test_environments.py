"""What is said of environments and policies that cannot be used."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from maml_jax.errors import UsageError
from maml_jax.models.functional import FunctionalModel
from maml_jax.rl import ENVIRONMENTS, Navigation, Policy, check_environment
from maml_jax.rl.policy import LOG_STD
from tests.rl.problems import KEY


@dataclasses.dataclass(frozen=True)
class Wind(Navigation):
    def step(self, goal: Any, position: Any, action: Any, key: Any) -> Any:
        return super().step(goal, position + np.random.normal(size=2), action, key)


@dataclasses.dataclass(frozen=True)
class Branch(Navigation):
    def step(self, goal: Any, position: Any, action: Any, key: Any) -> Any:
        return super().step(goal, position if position[0] > 0 else -position, action, key)


@dataclasses.dataclass(frozen=True)
class Whole(Navigation):
    def reset(self, goal: Any, key: Any) -> Any:
        return jnp.zeros(2, int), jnp.zeros(2)


@pytest.mark.parametrize(
    ("environment", "horizon", "message"),
    [
        (Navigation(), 0, "'mine': horizon=0 is not allowed; use 1 or more"),
        (Wind(), 5, "has a step that is not pure: traced twice"),
        (Branch(), 5, "cannot be traced .* write sample_task, reset and step as pure functions"),
        (Whole(), 5, "step returns a state of other shapes or dtypes than reset"),
        (Navigation(observation_size=3), 5, r"observations of shape \(2,\); give \(3,\)"),
    ],
)
def test_an_environment_that_cannot_be_used_is_refused(
    environment: Any, horizon: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        check_environment(environment, "mine", horizon)


def test_the_package_has_environments_that_pass() -> None:
    check_environment(ENVIRONMENTS["navigation"](), "navigation", 100)


def test_a_policy_has_log_std_beside_its_network() -> None:
    network = FunctionalModel(
        lambda key, inputs: {"w": jnp.zeros((inputs.shape[-1], 3))}, lambda p, x: x @ p["w"]
    )
    policy = Policy(network, initial_log_std=-9.0, min_log_std=-2.0)
    params = policy.init(KEY, jnp.zeros(2))
    assert sorted(params) == [LOG_STD, "w"]
    acts = policy(params, jnp.ones((4, 5, 2)))
    assert acts.mean.shape == acts.log_std.shape == (4, 5, 3)
    assert np.all(acts.log_std == -2)
    flat = FunctionalModel(lambda key, inputs: jnp.zeros(3), lambda p, x: x @ p)
    with pytest.raises(TypeError, match="give a dict"):
        Policy(flat).init(KEY, jnp.zeros(2))
