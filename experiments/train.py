"""Trains a run, or resumes it, evaluates it and writes its report.

The last line of output is one JSON object.

python -m experiments.train --config=configs/sinusoid.py --workdir=runs/sinusoid
python -m experiments.train --config=configs/sinusoid.py --workdir=runs/k5 --config.seed=1

The same command resumes an interrupted run.
"""

from experiments import cli

_CONFIG = cli.define_config()
_WORKDIR = cli.define_workdir()


def main(_: list[str]) -> None:
    """Runs the whole job."""
    from maml_jax.run.loop import train_and_evaluate
    from maml_jax.run.report import write_report

    record = train_and_evaluate(_CONFIG.value, _WORKDIR.value)
    print(f"report: {write_report(_WORKDIR.value)}")
    cli.print_record(record)


if __name__ == "__main__":
    cli.run(main)
