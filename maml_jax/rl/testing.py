"""Contract checks of environments, to be called in the tests of a module that adds some."""

import jax
import jax.numpy as jnp
import numpy as np

from maml_jax.models.functional import FunctionalModel
from maml_jax.rl import environments
from maml_jax.rl.policy import Policy
from maml_jax.rl.registry import ENVIRONMENTS
from maml_jax.rl.rollouts import ToRollOut, Trajectories, roll_out
from maml_jax.types import Array, PyTree

_ROLLOUTS, _STEPS = 4, 20


def check_environment(name: str) -> None:
    """Checks the entry of `ENVIRONMENTS` with this name.

    - Its functions are pure, and their shapes fit (`maml_jax.rl.check_environment`).
    - Two keys give two tasks, and rollouts that differ.
    - Observations, actions and rewards of random rollouts of 20 steps are finite.
    - A rollout does not depend on those beside it.

    Raises:
      AssertionError: the entry fails one of the last three.
      UsageError: it fails the first, or there is no such entry.

    Example:
      >>> from maml_jax.rl import testing
      >>> testing.check_environment("navigation")
    """
    environment = ENVIRONMENTS.find(name)()
    steps = min(environment.horizon, _STEPS)
    environments.check_environment(environment, name, steps)
    size = environment.action_size
    network = FunctionalModel(lambda key, x: {}, lambda params, x: jnp.zeros((len(x), size)))
    policy = Policy(network, environment.discrete)
    params = policy.init(jax.random.key(0), jnp.zeros(environment.observation_size))

    @jax.jit
    def roll(key: Array, rollouts: Array) -> tuple[PyTree, Trajectories]:
        task = environment.sample_task(key)
        data = ToRollOut(task, rollouts)
        return task, roll_out(environment, policy, params, data, key, horizon=steps)

    of, every = f"environment {name!r} must", jnp.arange(_ROLLOUTS)
    (task, made), (other, _) = (roll(key, every) for key in jax.random.split(jax.random.key(0)))
    pairs = zip(jax.tree.leaves(task), jax.tree.leaves(other), strict=True)
    assert any(np.any(a != b) for a, b in pairs), f"{of} draw another task with another key"
    for part in ("observations", "actions", "rewards"):
        finite = np.isfinite(getattr(made, part)).all()
        assert finite, f"{of} have finite {part}: after random actions some are not"
    assert np.ptp(made.returns) > 0, f"{of} give rollouts that differ in their returns"
    reverse = roll(jax.random.split(jax.random.key(0))[0], every[::-1])[1]
    np.testing.assert_allclose(
        reverse.rewards[::-1], made.rewards, rtol=1e-3, atol=1e-4,
        err_msg=f"{of} not let a rollout depend on those beside it",
    )  # fmt: skip
