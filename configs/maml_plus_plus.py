"""MAML++ on Omniglot (Antoniou et al. 2019, table 1).

python -m experiments.train --config=configs/maml_plus_plus.py:20way_1shot --workdir=runs/plus_plus

Variants, with the published accuracy: 5way_1shot 99.47, 5way_5shot 99.93, 20way_1shot 97.65 ± 0.05,
20way_5shot 99.33 ± 0.03. 50,000 meta-steps of 8 tasks, 5 inner steps, which start at 0.1 on the
mean cross-entropy, and one query image of a class. The loss is weighted over the inner steps for
5,000 meta-steps. The five best of 100 validations are tested together.
"""

from ml_collections import ConfigDict

from configs import omniglot
from maml_jax.errors import UsageError

VARIANTS = tuple(row for row in omniglot.ROWS if not row.startswith("mlp"))


def get_config(variant: str = "20way_1shot") -> ConfigDict:
    """Omniglot's data and protocol with the network and the settings of MAML++."""
    if variant not in VARIANTS:
        raise UsageError(f"variant {variant!r} is unknown; use one of {', '.join(VARIANTS)}")
    config = omniglot.get_config(f"{variant}_paper")
    config.update_from_flattened_dict(
        {
            "algorithm": "maml_plus_plus",
            "num_meta_steps": 50_000,
            "meta_batch_size": 8,
            "task.query_shots": 1,
            "model.max_pool": True,
            "model.normalization": "per_step",
            "model.head_init": "xavier",
            "inner.num_steps": 5,
            "inner.step_size": 0.1,
            "outer.multi_step_anneal": 5_000,
            "eval.num_steps": 5,
            "eval.num_episodes": 600,
            "eval.validation_every": 500,
            "eval.validation_episodes": 600,
            "eval.ensemble": 5,
        }
    )
    return config
