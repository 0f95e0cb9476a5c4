"""Environments by name."""

from collections.abc import Callable
from functools import partial

from maml_jax.registry import Registry
from maml_jax.rl.environments import Environment
from maml_jax.rl.half_cheetah import HalfCheetah
from maml_jax.rl.navigation import Navigation

MakeEnvironment = Callable[[], Environment]
ENVIRONMENTS: Registry[MakeEnvironment] = Registry(
    "environment",
    {
        "navigation": Navigation,
        "half_cheetah_direction": partial(HalfCheetah, "direction"),
        "half_cheetah_velocity": partial(HalfCheetah, "velocity"),
    },
)


def register_environment(name: str, make: MakeEnvironment) -> None:
    """Makes `rl.environment=NAME` usable in configs.

    Args:
      name: of the environment.
      make: () -> Environment. It is called when a run is built: what it imports may be missing as
        long as nobody uses it.

    Raises:
      ValueError: the name belongs to the package.
    """
    ENVIRONMENTS.register(name, make)
