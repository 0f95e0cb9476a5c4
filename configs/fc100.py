"""Few-shot CIFAR-100 split by superclass: FC100 (Oreshkin et al. 2018).

python -m experiments.train --config=configs/fc100.py:5way_1shot --workdir=runs/fc100

Published MAML, 5-way: 38.1 ± 1.7 (1 shot), 50.4 ± 1.0 (5 shots). Variants: those of cifar_fs.
"""

from ml_collections import ConfigDict

from configs import cifar_fs


def get_config(variant: str = "5way_1shot") -> ConfigDict:
    """CIFAR-FS's recipe on FC100's split."""
    config = cifar_fs.get_config(variant)
    config.data.name = "fc100"
    return config
