"""Trains a run, or resumes it, evaluates it and writes its report.

The last line of output is one JSON object.

python -m experiments.train --config=configs/sinusoid.py --workdir=runs/sinusoid
python -m experiments.train --config=configs/sinusoid.py --workdir=runs/k5 --config.seed=1

The same command, or --workdir alone, resumes an interrupted run. --init_from starts a new run from
what another one, or a pretrained model, has learned. On several hosts, call it once on each, with
--distributed.
"""

import pathlib

from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments import cli, hosts

_CONFIG = cli.define_config()
_WORKDIR = cli.define_workdir()
_INIT_FROM = flags.DEFINE_string(
    "init_from",
    None,
    "workdir, file or name of a trained model whose learned values a new run starts from",
)


flags.adopt_module_key_flags(hosts)


def _config(workdir: pathlib.Path) -> ConfigDict:
    """That of --config or, without it, that of the run in --workdir; with the values of flags."""
    from maml_jax.run.workdir import find_config

    flag, config = flags.FLAGS["config"], _CONFIG.value
    if flag.using_default_value:
        of_run = find_config(workdir)
        if of_run is not None:
            of_run.update_from_flattened_dict(config_flags.get_override_values(flag))
            config = of_run
    if _INIT_FROM.value is not None:
        config.init_from = _INIT_FROM.value
    return config


def main(_: list[str]) -> None:
    """Runs the whole job."""
    from maml_jax.run.loop import train_and_evaluate
    from maml_jax.run.messages import note
    from maml_jax.run.report import write_report

    workdir = cli.workdir_of(_WORKDIR.value)
    config = _config(workdir)
    cli.check_overrides(config)
    record = train_and_evaluate(config, workdir)
    note("drawing the report ...")
    report = write_report(workdir)
    cli.print_record(record)
    note(f"report: {report}")


if __name__ == "__main__":
    cli.run(main)
