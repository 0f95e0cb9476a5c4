"""Few-shot sinusoid regression (Finn et al. 2017, section 5.1).

python -m experiments.train --config=configs/sinusoid.py --workdir=runs/sinusoid
python -m experiments.train --config=configs/sinusoid.py:paper --workdir=runs/sinusoid_paper
python -m experiments.train --config=configs/sinusoid.py:adaptive_k --workdir=runs/adaptive_k
python -m experiments.train --config=configs/sinusoid.py:meta_curvature --workdir=runs/curved

Published mean squared error after 1 / 5 / 10 steps on 5 points: 0.67 / 0.38 / 0.35 (pretrained
network 2.41 / 2.23 / 2.19). Measured: README, from experiments/results/. On 2 CPU cores the default
takes 1 to 2½ minutes with both baselines, `paper` and `meta_curvature` about 4.
"""

from ml_collections import ConfigDict

from maml_jax.errors import UsageError
from maml_jax.run.config import default_config


def get_config(variant: str = "") -> ConfigDict:
    """The quick default; `paper`: 70,000 meta-steps as published; `adaptive_k`: learned lengths.

    `meta_curvature`: these with learned matrices and a step size for every step, the winner of the
    study of accelerated methods.
    """
    config = default_config()
    config.baselines = ("pretrained", "oracle")
    config.eval.shots, config.eval.query_shots = 5, 100
    if variant == "paper":
        config.num_meta_steps = 70_000
        config.steps_per_dispatch = 1_000
        config.log_every = 1_000
        config.checkpoint.every = 10_000
    elif variant == "adaptive_k":
        config.baselines = ()
        config.algorithm = "adaptive_k"
        config.inner.num_steps = config.eval.num_steps = 20
        config.lengths.cost_weight = 0.02
    elif variant == "meta_curvature":
        config.baselines = ()
        config.num_meta_steps = 6_000
        config.algorithm = "adaptive_k"
        config.inner.num_steps = config.eval.num_steps = 20
        config.inner.optimizer, config.inner.learn_optimizer = "meta_curvature", "global"
        config.inner.step_sizes, config.inner.step_size = "tensor_step", 0.02
        config.lengths.cost_weight, config.lengths.initial_length = 0.02, 5.0
        config.outer.lengths_from = 1_500
        config.outer.schedule, config.outer.learning_rate = "cosine", 6e-3
        config.outer.step_sizes_learning_rate, config.outer.optimizer_learning_rate = 1e-2, 1e-3
        config.outer.task_clip_norm = 1.0
        config.eval.shots = 10
    elif not variant:
        config.task.shots = 5  # as at test
        config.inner.num_steps, config.inner.clip_norm = 5, 10.0
        config.num_meta_steps = 8_000
        config.outer.schedule, config.outer.learning_rate = "cosine", 1e-2
        config.outer.task_clip_norm = 10.0
    else:
        known = "'', 'paper', 'adaptive_k' or 'meta_curvature'"
        raise UsageError(f"variant {variant!r} is unknown; use {known}")
    return config
