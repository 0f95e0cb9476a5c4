"""Trains a run, or resumes it, evaluates it and writes its report.

python -m experiments.train --config=configs/sinusoid.py --workdir=runs/sinusoid
python -m experiments.train --config=configs/sinusoid.py --workdir=runs/k5 \
    --config.inner.num_steps=5 --config.seed=1

The same command resumes an interrupted run. Keys and their defaults: maml_jax/config.py.
"""

import json

from ml_collections import config_flags

from experiments import cli

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    "configs/sinusoid.py",
    "card: configs/NAME.py or configs/NAME.py:VARIANT",
)
_WORKDIR = cli.define_workdir()


def main(_: list[str]) -> None:
    """Runs the whole job."""
    from maml_jax.report import write_report
    from maml_jax.training import train_and_evaluate

    record = train_and_evaluate(_CONFIG.value, _WORKDIR.value)
    print(f"report: {write_report(_WORKDIR.value)}")
    print(json.dumps(record))


if __name__ == "__main__":
    cli.run(main)
