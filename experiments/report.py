"""Writes report.html with figures into a run's folder.

python -m experiments.report --workdir=runs/sinusoid
"""

from experiments import cli

_WORKDIR = cli.define_workdir()


def main(_: list[str]) -> None:
    """Writes the report and prints its path."""
    from maml_jax.run.report import write_report

    print(write_report(_WORKDIR.value))


if __name__ == "__main__":
    cli.run(main)
