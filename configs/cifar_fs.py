"""Few-shot CIFAR-100: CIFAR-FS (Bertinetto et al. 2019).

python -m experiments.train --config=configs/cifar_fs.py:5way_1shot --workdir=runs/cifar_fs

Published MAML, 5-way: 58.9 ± 1.9 (1 shot), 71.5 ± 1.0 (5 shots). Variants: 5way_1shot, 5way_5shot
as published; 5way_1shot_cpu, 5way_5shot_cpu with 18,000 meta-steps under a decaying outer rate
(1 shot: 40 minutes on 2 cores).
miniImageNet's recipe: max-pooling, 32 filters, 5 inner steps of 0.05 on the mean cross-entropy
(0.01 on the sum over ways), 10 at test, outer gradients clipped to ±10.
"""

from ml_collections import ConfigDict

from maml_jax.errors import UsageError
from maml_jax.run.config import default_config

SHOTS = {"5way_1shot": (1, 4), "5way_5shot": (5, 2)}  # shots, meta-batch
CPU = {"num_meta_steps": 18_000, "outer.schedule": "cosine", "eval.validation_every": 1_000}


def get_config(variant: str = "5way_1shot") -> ConfigDict:
    """60,000 meta-steps; shorten with --config.num_meta_steps."""
    row = variant.removesuffix("_cpu")
    if row not in SHOTS:
        raise UsageError(
            f"variant {variant!r} is unknown; use ROW or ROW_cpu with ROW one of {', '.join(SHOTS)}"
        )
    shots, tasks = SHOTS[row]
    config = default_config()
    config.update_from_flattened_dict(
        {
            "num_meta_steps": 60_000,
            "meta_batch_size": tasks,
            "task.name": "images",
            "task.ways": 5,
            "task.shots": shots,
            "task.query_shots": 15,
            "eval.num_steps": 10,
            "eval.validation_every": 2_000,
            "eval.chunk": 20,
            "data.name": "cifar_fs",
            "model.name": "conv4",
            "model.max_pool": True,
            "model.filters": 32,
            "model.normalization": "batch",
            "inner.num_steps": 5,
            "inner.step_size": 0.05,
            "outer.clip": 10.0,
            "steps_per_dispatch": 50,
            "log_every": 100,
            "checkpoint.every": 500,
        }
        | ({} if variant == row else CPU)
    )
    return config
