"""Evaluates a trained run, its last and its validation-selected parameters, on held-out episodes.

The last line of output is one JSON object.

python -m experiments.evaluate --workdir=runs/sinusoid --shots=20
python -m experiments.evaluate --workdir=runs/glyphs --ways=10 --output=episodes.csv
"""

from absl import flags

from experiments import cli, hosts

_WORKDIR = cli.define_workdir()
_OVERRIDES = {
    "num_episodes": flags.DEFINE_integer("num_episodes", None, "held-out episodes"),
    "ways": flags.DEFINE_integer("ways", None, "classes in an episode"),
    "shots": flags.DEFINE_integer("shots", None, "support examples to adapt on"),
    "query_shots": flags.DEFINE_integer("query_shots", None, "query examples to measure on"),
    "num_steps": flags.DEFINE_integer("num_steps", None, "inner steps K"),
    "later_step_sizes": flags.DEFINE_float(
        "later_step_sizes", None, "factor of the step sizes after the first inner step"
    ),
}
_SCHEDULE = flags.DEFINE_enum(
    "schedule",
    "compiled",
    ["compiled", "pruned", "masked"],
    "the inner loop of learned lengths. compiled: leaves out what has halted; pruned: the cheaper "
    "one that experiments.lengths --prune has found; masked: computes all steps, as in training",
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "FILE.csv or FILE.json for one row for each test episode"
)
flags.adopt_module_key_flags(hosts)


def main(_: list[str]) -> None:
    """Prints mean and 95% confidence interval after every inner step."""
    from maml_jax.run.loop import evaluate_run

    overrides = {name: flag.value for name, flag in _OVERRIDES.items() if flag.value is not None}
    folder = cli.workdir_of(_WORKDIR.value)
    cli.print_record(evaluate_run(folder, overrides, _OUTPUT.value, _SCHEDULE.value))


if __name__ == "__main__":
    cli.run(main)
