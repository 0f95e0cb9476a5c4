"""Few-shot characters of the DejaVu fonts: images without a download, a minute on two cores.

python -m experiments.train --config=configs/glyphs.py --workdir=runs/glyphs
"""

from ml_collections import ConfigDict

from configs import omniglot
from maml_jax.errors import UsageError


def get_config(variant: str = "") -> ConfigDict:
    """Omniglot's 5-way 1-shot network and protocol at half the filters, on glyphs."""
    if variant:
        raise UsageError(f"variant {variant!r} is unknown; configs/glyphs.py has none")
    config = omniglot.get_config("5way_1shot_cpu")
    config.data.name = "glyphs"
    config.data.rotation = "none"
    config.model.filters = 32
    config.num_meta_steps = 1_000
    config.eval.validation_every = 250
    return config
