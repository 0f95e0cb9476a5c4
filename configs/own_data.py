"""Your own images or features, 5-way 1-shot; docs/own_data.md tells more.

python -m experiments.train --config=configs/own_data.py --workdir=runs/mine \
    --config.data.name=folder:PATH
python -m experiments.train --config=configs/own_data.py:features --workdir=runs/features \
    --config.data.name=npz:FILE

PATH has a folder for each class, or such folders in train, val and test; FILE has arrays `features`
(float [n, d]) and `labels`. --config.task.ways, .shots and .query_shots change the episodes, in
training and at test. Images are resized to 84 × 84 pixels (--config.data.image_size).
"""

from typing import Any

from ml_collections import ConfigDict

from maml_jax.errors import UsageError
from maml_jax.run.config import default_config

VARIANTS: dict[str, dict[str, Any]] = {
    "images": {  # miniImageNet's network
        "data.name": "folder:PATH",
        "data.image_size": 84,
        "model.name": "conv4",
        "model.max_pool": True,
        "model.filters": 32,
    },
    "features": {
        "data.name": "npz:FILE",
        "model.name": "mlp",
        "model.hidden": (128, 64),
        "model.kernel_init": "he",
        "inner.step_size": 0.5,
    },
}


def get_config(variant: str = "images") -> ConfigDict:
    """A network for `images` or `features`, 5,000 meta-steps under a decaying outer rate."""
    if variant not in VARIANTS:
        raise UsageError(f"variant {variant!r} is unknown; use one of {', '.join(VARIANTS)}")
    config = default_config()
    config.update_from_flattened_dict(
        {
            "num_meta_steps": 5_000,
            "meta_batch_size": 4,
            "task.name": "images",
            "task.shots": 1,
            "task.query_shots": 5,
            "eval.num_steps": 10,
            "eval.validation_every": 500,
            "eval.num_episodes": 600,
            "eval.chunk": 20,
            "model.normalization": "batch",
            "inner.num_steps": 5,
            "inner.step_size": 0.05,
            "outer.schedule": "cosine",
            "outer.clip": 10.0,
            "steps_per_dispatch": 10,
            "log_every": 100,
            "checkpoint.every": 500,
        }
        | VARIANTS[variant]
    )
    return config
