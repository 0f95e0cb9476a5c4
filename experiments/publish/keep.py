"""Keeps the records of finished runs and of their baselines in experiments/results/NAME.json.

python -m experiments.publish.keep --name=sinusoid_default runs/sinusoid_0 runs/sinusoid_1

The runs are of one config and differ in the seed; some may have baselines.
"""

from absl import flags

from experiments import cli
from experiments.publish import results

_NAME = flags.DEFINE_string("name", None, "name of the result", required=True)


def main(arguments: list[str]) -> None:
    """Keeps and prints the path."""
    print(results.keep(_NAME.value, arguments[1:]))


if __name__ == "__main__":
    cli.run(main, takes_arguments=True)
