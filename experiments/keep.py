"""Keeps a finished run's record, and its references', in experiments/results/NAME.json.

python -m experiments.keep --workdir=runs/sinusoid --name=sinusoid_default
"""

import pathlib

from absl import flags

from experiments import cli, results_io
from maml_jax import provenance

_WORKDIR = cli.define_workdir()
_NAME = flags.DEFINE_string("name", None, "name of the result", required=True)


def main(_: list[str]) -> None:
    """Writes the result and prints its path."""
    from maml_jax.training import read_config, read_evaluation

    workdir = pathlib.Path(_WORKDIR.value)
    config = read_config(workdir).to_dict()
    records = {
        name or config["algorithm"]: read_evaluation(workdir / name)
        for name in ("", *config["references"])
    }
    first = next(iter(records.values()))
    runs = [
        {"run": name, **{k: v for k, v in record.items() if k not in provenance.KEYS}}
        for name, record in records.items()
    ]
    record = {**{key: first[key] for key in provenance.KEYS}, "config": config, "runs": runs}
    print(results_io.write(_NAME.value, record))


if __name__ == "__main__":
    cli.run(main)
