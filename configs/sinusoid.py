"""Few-shot sinusoid regression (Finn et al. 2017, section 5.1).

python -m experiments.train --config=configs/sinusoid.py --workdir=runs/sinusoid
python -m experiments.train --config=configs/sinusoid.py:paper --workdir=runs/sinusoid_paper
python -m experiments.train --config=configs/sinusoid.py:adaptive_k --workdir=runs/adaptive_k

Published mean squared error after 1 / 5 / 10 steps on 5 points: 0.67 / 0.38 / 0.35 (pretrained
network 2.41 / 2.23 / 2.19). Measured: README, from experiments/results/. On 2 CPU cores the default
takes about 1 minute with both references, `paper` about 4.
"""

from ml_collections import ConfigDict

from maml_jax.config import default_config
from maml_jax.errors import UsageError


def get_config(variant: str = "") -> ConfigDict:
    """The quick default; `paper`: 70,000 meta-steps as published; `adaptive_k`: learned lengths."""
    config = default_config()
    config.references = ("pretrained", "oracle")
    if variant == "paper":
        config.num_meta_steps = 70_000
        config.steps_per_dispatch = 1_000
        config.log_every = 1_000
        config.checkpoint.every = 10_000
    elif variant == "adaptive_k":
        config.references = ()
        config.algorithm = "adaptive_k"
        config.inner.num_steps = config.eval.num_steps = 20
        config.halting.cost_weight = 0.02
    elif variant:
        raise UsageError(f"variant {variant!r} is unknown; use '', 'paper' or 'adaptive_k'")
    return config
