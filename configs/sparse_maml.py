"""sparse-MAML's recipe on CIFAR-FS (von Oswald et al. 2021, table 1, which has miniImageNet).

python -m experiments.train --config=configs/sparse_maml.py:5way_5shot_cpu --workdir=runs/sparse

Published on miniImageNet, 5 shots / 1 shot: MAML 63.15 / 48.07, sparse-ReLU-MAML 66.80 / 50.15
(--config.algorithm=sparse_relu_maml), sparse-MAML 67.03 / 50.35. Variants: 5way_5shot, 5way_1shot
with 64 filters, 35 inner steps and 40,000 meta-steps of 2 tasks; with _cpu a quarter of the
meta-steps, 32 filters and 10 inner steps.
--config.data.name=mini_imagenet:PATH trains on miniImageNet.
"""

from ml_collections import ConfigDict

from configs import cifar_fs
from maml_jax.errors import UsageError

STEP_SIZES = {"5way_1shot": 0.1, "5way_5shot": 0.25}
CPU = {"num_meta_steps": 10_000, "model.filters": 32, "inner.num_steps": 10, "eval.num_steps": 10}


def get_config(variant: str = "5way_5shot") -> ConfigDict:
    """CIFAR-FS's data and network with the settings of sparse-MAML."""
    row = variant.removesuffix("_cpu")
    if row not in STEP_SIZES:
        raise UsageError(
            f"variant {variant!r} is unknown; use ROW or ROW_cpu with ROW one of "
            f"{', '.join(STEP_SIZES)}"
        )
    config = cifar_fs.get_config(row)
    config.update_from_flattened_dict(
        {
            "algorithm": "sparse_maml",
            "num_meta_steps": 40_000,
            "meta_batch_size": 2,
            "model.filters": 64,
            "inner.num_steps": 35,
            "inner.step_size": STEP_SIZES[row],
            "outer.clip": 0.0,
            "outer.step_sizes_learning_rate": 7.5e-3,
            "eval.num_steps": 35,
            "eval.num_episodes": 500,
        }
        | ({} if variant == row else CPU)
    )
    return config
