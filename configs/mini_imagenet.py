"""Few-shot miniImageNet (Finn et al. 2017, table 1; split of Ravi and Larochelle 2017).

python -m experiments.train --config=configs/mini_imagenet.py:5way_1shot \
    --workdir=runs/mini_imagenet --config.data.name=mini_imagenet:PATH

Published MAML, 5-way: 48.70 ± 1.84 (1 shot), 63.11 ± 0.92 (5 shots), on 600 test tasks; first-order
(--config.algorithm=fomaml) 48.07 ± 1.75, 63.15 ± 0.91. Variants: 5way_1shot, 5way_5shot, with 4 and
2 tasks of a meta-batch, 60,000 meta-steps, max-pooling, 32 filters, 15 query images of a class, 5
inner steps of 0.05 on the mean cross-entropy (0.01 on the sum over ways), 10 at test, and outer
gradients clipped to ±10.

PATH has the images with train.csv, val.csv and test.csv, Parquet files of the Hugging Face Hub, or
class folders; docs/own_data.md tells more. --config.data.name=tiered_imagenet:PATH trains on
tieredImageNet.
"""

from ml_collections import ConfigDict

from configs import cifar_fs
from maml_jax.errors import UsageError


def get_config(variant: str = "5way_1shot") -> ConfigDict:
    """The recipe that CIFAR-FS has from here, on images of 84 pixels."""
    if variant not in cifar_fs.SHOTS:
        raise UsageError(f"variant {variant!r} is unknown; use one of {', '.join(cifar_fs.SHOTS)}")
    config = cifar_fs.get_config(variant)
    config.data.name = "mini_imagenet:~/data/mini_imagenet"
    return config
