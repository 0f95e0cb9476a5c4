"""Makes a finished run a pretrained model of the package: maml_jax.load(NAME).

python -m experiments.publish.pretrained --workdir=runs/glyphs --name=glyphs-5way-1shot

The file, of at most 500 KB, holds the parameters that `maml_jax.load(WORKDIR)` gives, the config
without the folders of this machine, and the evaluation with command, commit and hardware.
"""

import pathlib
import re
import tempfile

from absl import flags

from experiments import cli
from maml_jax.errors import UsageError

_WORKDIR = cli.define_workdir()
_NAME = flags.DEFINE_string(
    "name", None, "of the model: lower-case letters, digits and hyphens", required=True
)
_REPLACE = flags.DEFINE_bool("replace", False, "whether a model of this name is replaced")
_MOST_BYTES = 500_000


def main(_: list[str]) -> None:
    """Writes the file and prints its path."""
    from maml_jax.run import files, load, pretrained
    from maml_jax.run.exported import PACKAGED, SUFFIX

    name = _NAME.value
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise UsageError(f"--name={name} is not allowed; use lower-case letters, digits, hyphens")
    if name in pretrained() and not _REPLACE.value:
        raise UsageError(f"there is a pretrained model {name}; use another --name, or --replace")
    model = load(_WORKDIR.value)
    if not model.record:
        raise UsageError(f"the run in {_WORKDIR.value} is not evaluated yet; train it to its end")
    if model.experiment.spec.data.name.partition(":")[0] in ("folder", "npz"):
        raise UsageError("data of one's own cannot be named for others; use a published data set")
    command = model.record["command"]  # without folders of this machine
    model.record["command"] = re.sub(r"--workdir=\S+", f"--workdir=runs/{name}", command)
    for key in ("dir", "splits_dir", "cache_dir"):
        model.config.data[key] = ""
    with tempfile.TemporaryDirectory() as folder:
        content = model.save(pathlib.Path(folder) / name).read_bytes()
    if (size := len(content)) > _MOST_BYTES:
        raise UsageError(f"{name} has {size:,} bytes; use a network of at most {_MOST_BYTES:,}")
    path = PACKAGED / f"{name}{SUFFIX}"
    files.write(path, content)
    print(f"{path}: {size:,} bytes, {model}")


if __name__ == "__main__":
    cli.run(main)
