"""Keeps the record of a finished run and of its baselines in experiments/results/NAME.json.

python -m experiments.publish.keep --workdir=runs/sinusoid --name=sinusoid_default
"""

import pathlib

from absl import flags

from experiments import cli
from experiments.publish import results
from maml_jax.run import provenance
from maml_jax.run.workdir import read_config, read_evaluation

_WORKDIR = cli.define_workdir()
_NAME = flags.DEFINE_string("name", None, "name of the result", required=True)


def main(_: list[str]) -> None:
    """Writes the result and prints its path."""
    workdir = pathlib.Path(_WORKDIR.value)
    config = read_config(workdir).to_dict()
    records = {
        name or config["algorithm"]: read_evaluation(workdir / name)
        for name in ("", *config["baselines"])
    }
    first = next(iter(records.values()))
    runs = [
        {"run": name, **{k: v for k, v in record.items() if k not in provenance.KEYS}}
        for name, record in records.items()
    ]
    record = {**{key: first.get(key) for key in provenance.KEYS}, "config": config, "runs": runs}
    print(results.write(_NAME.value, record))


if __name__ == "__main__":
    cli.run(main)
