"""Packs a data set into one compressed file and the lists of its classes, for a machine without it.

python -m experiments.device.pack --name=omniglot --output=packed
python -m experiments.train --config=configs/omniglot.py:5way_1shot --workdir=runs/packed \\
    --config.data.name=npz:packed/images.npz --config.data.split=packed

OUTPUT/images.npz has the processed images and the names of their classes; train.txt, val.txt and
test.txt list the classes of the data set's own split.
"""

import dataclasses

import numpy as np
from absl import flags

from experiments import cli
from maml_jax.errors import UsageError
from maml_jax.run import files
from maml_jax.tasks.images.pools import load_pools
from maml_jax.tasks.settings import DataSettings

_NAME = flags.DEFINE_string("name", "omniglot", "data set, as in data.name")
_OUTPUT = flags.DEFINE_string("output", "packed", "folder of the files")


def main(_: list[str]) -> None:
    """Packs the pools of the data set."""
    try:
        pools = load_pools(dataclasses.replace(DataSettings(), name=_NAME.value))
    except ValueError as error:
        raise UsageError(f"--name={_NAME.value}: {error}") from error
    folder = files.local_folder(_OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = [], []
    for stream in ("train", "val", "test"):
        pool, names = getattr(pools, stream), getattr(pools.classes, stream)
        files.write(folder / f"{stream}.txt", "".join(f"{name}\n" for name in names))
        for name, of_class, number in zip(names, pool.images, pool.counts, strict=True):
            images.append(np.asarray(of_class[:number]))
            labels += [name] * int(number)
    path = folder / "images.npz"
    np.savez_compressed(path, images=np.concatenate(images), labels=np.array(labels))
    print(f"{path}: {len(labels)} images, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    cli.run(main)
