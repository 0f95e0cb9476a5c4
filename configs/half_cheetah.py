"""Half-cheetah by reinforcement learning on MJX (Finn et al. 2017, section 5.3).

pip install "maml_jax[rl]"
python -m experiments.train --config=configs/half_cheetah.py:direction --workdir=runs/direction
python -m experiments.train --config=configs/half_cheetah.py:velocity --workdir=runs/velocity

Published returns after 0 / 1 / 2 / 3 updates on 40 tasks: direction -50.69 / 293.19 / 313.48 /
315.65, velocity -129.53 / -78.57 / -66.62 / -60.78. A meta-step simulates 320,000 steps, and
compiling takes minutes on a CPU: use a GPU.
"""

from ml_collections import ConfigDict

from configs import navigation
from maml_jax.errors import UsageError
from maml_jax.rl.half_cheetah import TASKS


def get_config(variant: str = "direction") -> ConfigDict:
    """A goal `direction` or a goal `velocity`, with the outer step of TRPO as published."""
    if variant not in TASKS:
        raise UsageError(f"variant {variant!r} is unknown; use {' or '.join(TASKS)}")
    config = navigation.get_config("trpo")
    config.rl.environment = f"half_cheetah_{variant}"
    config.meta_batch_size = 40
    config.inner.step_size = 0.1
    config.eval.query_shots = 20
    config.eval.num_steps = 3
    config.log_every = config.checkpoint.every = 10
    return config
