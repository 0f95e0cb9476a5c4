"""2D navigation by reinforcement learning (Finn et al. 2017, section 5.3).

python -m experiments.train --config=configs/navigation.py --workdir=runs/navigation
python -m experiments.train --config=configs/navigation.py:trpo --workdir=runs/navigation_trpo
python -m experiments.train --config=configs/navigation.py:promp --workdir=runs/navigation_promp
python -m experiments.train --config=configs/navigation.py:lengths --workdir=runs/navigation_k

Published returns after 0 / 1 / 2 / 3 updates on 40 tasks: -40.41 / -11.68 / -3.33 / -3.23. Those
measured: docs/reinforcement_learning.md, from experiments/results/. The default takes about 5
minutes on a CPU core of its own, and a meta-step of `trpo` with five conjugate-gradient steps as
long as twelve of the default.
"""

from typing import Any

from ml_collections import ConfigDict

from maml_jax.errors import UsageError
from maml_jax.run.config import default_config

COMMON: dict[str, Any] = {
    "task.name": "rl",
    "rl.environment": "navigation",
    "rl.estimator": "lvc",
    "rl.initial_log_std": -0.7,
    "task.shots": 20,  # rollouts for an inner step
    "task.query_shots": 20,
    "model.hidden": (100, 100),
    "model.kernel_init": "xavier",
    "meta_batch_size": 20,
    "num_meta_steps": 500,
    "inner.step_size": 0.1,
    "outer.learning_rate": 1e-3,
    "eval.num_episodes": 40,
    "eval.query_shots": 40,
    "eval.num_steps": 4,
    "eval.later_step_sizes": 0.5,
    "eval.chunk": 10,
    "steps_per_dispatch": 10,
    "log_every": 10,
    "checkpoint.every": 100,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "trpo": {"outer.optimizer": "trpo", "steps_per_dispatch": 1},
    "promp": {"outer.num_updates": 5, "rl.clip": 0.3},
    "lengths": {
        "algorithm": "adaptive_k",
        "inner.num_steps": 3,
        "lengths.granularity": "tensor",
    },
}


def get_config(variant: str = "") -> ConfigDict:
    """Adam on the surrogate; `trpo` and `promp` as published; `lengths`: learned, K = 3."""
    if variant not in VARIANTS:
        known = ", ".join(map(repr, VARIANTS))
        raise UsageError(f"variant {variant!r} is unknown; use one of {known}")
    config = default_config()
    config.update_from_flattened_dict(COMMON | VARIANTS[variant])
    return config
