"""Reproduces published numbers: trains the rows of the ledger, and keeps what came out.

python -m experiments.reproduce --list
python -m experiments.reproduce --row=omniglot-5way-1shot-cpu --seeds=0:3
python -m experiments.reproduce --all --smoke

What is trained already is not trained again, and an interrupted call goes on where it stopped. The
records are in experiments/results/ledger, and `python -m experiments.publish.tables` writes
docs/ledger.md from them. --smoke makes every run tiny, to see whether it works at all; its records
stay in the workdir. Omniglot and CIFAR need TFDS_DATA_DIR.
"""

import pathlib

from absl import flags

from experiments import cli
from experiments.process import FolderParser
from maml_jax.errors import UsageError

cli.import_modules()
_LIST = flags.DEFINE_bool("list", False, "prints the rows and ends")
_ROW = flags.DEFINE_list("row", [], "names of rows, which --list shows")
_ALL = flags.DEFINE_bool("all", False, "all rows; those whose data are missing are left out")
_SEEDS = flags.DEFINE_string("seeds", "0:3", "0:3 for seeds 0, 1 and 2; or some, as 0,2")
_SMOKE = flags.DEFINE_bool("smoke", False, "tiny runs without data, which show that a row works")
_WORKDIR = flags.DEFINE(
    FolderParser(), "workdir", "runs/ledger", "folder of the runs, in ROW/seed_SEED"
)
_DATA = flags.DEFINE_string(
    "data", "", "data.name of rows whose data you have to bring, as mini_imagenet:PATH"
)
_ADD = flags.DEFINE_list(
    "add", [], "adds the kept results in these JSON files to the row, instead of training"
)


def _names() -> list[str]:
    """The rows that are asked for, those of --all whose data can be had."""
    from experiments.ledger.rows import ROWS

    if _ALL.value == bool(_ROW.value):
        raise UsageError("use either --row=NAME,NAME or --all; --list shows the rows")
    try:
        return [name for name in _ROW.value if ROWS.find(name)] or list(ROWS)
    except ValueError as error:
        raise UsageError(f"--row: {error}") from error


def _reproduce(name: str, root: pathlib.Path) -> pathlib.Path:
    """Trains and tests a row, and returns the file of its records."""
    import jax

    from experiments.ledger import records, runs
    from experiments.ledger.rows import ROWS
    from maml_jax.run.grid import parse_seeds

    rows = {of: row.with_data(_DATA.value) for of, row in ROWS.items()}
    train = runs.one_by_one if jax.default_backend() == "cpu" else runs.together
    seeds = parse_seeds(_SEEDS.value)
    made = runs.records_of(name, rows, seeds, root, smoke=_SMOKE.value, train=train)
    return records.add(name, rows[name], made, root / "ledger" if _SMOKE.value else None)


def main(_: list[str]) -> None:
    """Lists, adds or trains."""
    from experiments.ledger import records, summary
    from experiments.ledger.rows import ROWS
    from maml_jax.run.messages import note

    if _LIST.value:
        print(summary.listing())
        return
    root, names = pathlib.Path(_WORKDIR.value), _names()
    for name in names:
        if _ADD.value:
            paths = map(pathlib.Path, _ADD.value)
            kept = [of for path in paths for of in records.imported(ROWS[name], path)]
            print(records.add(name, ROWS[name], kept))
            continue
        note(f"{name}: {ROWS[name].text}, {ROWS[name].paper}")
        try:
            print(_reproduce(name, root))
        except UsageError as error:
            if len(names) == 1:
                raise
            note(f"left out: {name} ({error})")


if __name__ == "__main__":
    cli.run(main)
