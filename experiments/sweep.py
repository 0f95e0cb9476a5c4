"""Trains a grid of settings with several seeds, and compares them in one table and one page.

Runs that differ in their seeds and in numbers such as learning rates are trained together, as one
program. Every run has a workdir of its own, WORKDIR/SETTING/seed_N, which the other commands take.
WORKDIR/sweep.csv and WORKDIR/sweep.html compare the settings: mean and 95% interval over seeds.

python -m experiments.sweep --config=configs/glyphs.py --workdir=runs/glyphs_sweep \\
  --grid=inner.step_size=1.0,2.0 --grid=algorithm=maml,meta_sgd --seeds=0:3

The same command goes on with an interrupted sweep; a finished run is not trained again, and a run
that fails is named while the others are kept. --grid values of a key may be numbers, names or
tuples. With --executor=slurm every population is a job of a cluster.
"""

import pathlib

from absl import flags

from experiments import cli, executors, hosts
from maml_jax.errors import UsageError

_CONFIG = cli.define_config()
_WORKDIR = cli.define_workdir()
_GRID = flags.DEFINE_multi_string(
    "grid", [], "KEY=VALUE,VALUE of the config; several flags are crossed with each other"
)
_SEEDS = flags.DEFINE_string("seeds", "0:3", "FIRST:END without the end, as 0:10, or 0,3,7")
flags.adopt_module_key_flags(executors)
flags.adopt_module_key_flags(hosts)


def main(_: list[str]) -> None:
    """Trains what is left, and writes the table and the page."""
    from maml_jax.parallel.hosts import is_writer
    from maml_jax.run import comparison, grid, sweep
    from maml_jax.run.lock import locked
    from maml_jax.run.messages import note
    from maml_jax.run.sweep_report import sentences, write_summary
    from maml_jax.run.workdir import is_evaluated

    config, folder = _CONFIG.value, cli.workdir_of(_WORKDIR.value)
    cli.check_overrides(config)
    values = grid.parse_grid(_GRID.value, config)
    members = grid.members_of(config, values, grid.parse_seeds(_SEEDS.value), folder)
    runs = grid.with_baselines(members)
    train = executors.chosen(folder)
    with locked(folder):
        failures = sweep.train_sweep(runs, executors.MOST.value, train)
        if not is_writer():
            return
        finished = [member.run.workdir for member in members if is_evaluated(member.run.workdir)]
        if finished:
            summary = write_summary(folder, finished, values, failures)
            print(comparison.as_text(summary.compared))
            for sentence in sentences(summary, values):
                print(sentence)
            note(f"written: {folder / 'sweep.csv'} and {folder / 'sweep.html'}")
            note(f"a table in LaTeX and a figure: python -m experiments.compare {folder}")
    if failures:
        named = "; ".join(f"{pathlib.Path(path)}: {why}" for path, why in failures.items())
        failed = f"{len(failures)} of {len(runs)} runs"
        raise UsageError(f"{failed} failed, the others are kept: {named}")


if __name__ == "__main__":
    cli.run(main)
