"""Compares runs: a table in the terminal, as CSV and for LaTeX, and a figure.

Give workdirs, or folders that hold workdirs. Runs that differ in nothing but the seed are one row:
mean and 95% t-interval over seeds. The first columns are the keys of the config that differ.

python -m experiments.compare runs/sweep
python -m experiments.compare runs/k1_seed0 runs/k1_seed1 runs/k5_seed0 runs/k5_seed1
python -m experiments.compare runs/sweep --labels=MAML,Meta-SGD
"""

import io
import os

from absl import flags

from experiments import cli
from maml_jax.errors import UsageError

cli.import_modules()
_OUTPUT = flags.DEFINE_string(
    "output", None, "folder of the files; default: `comparison` in the folder that holds the runs"
)
_LABELS = flags.DEFINE_list(
    "labels", [], "names of the settings for a paper, in the order of the table without this flag"
)


def main(arguments: list[str]) -> None:
    """Prints the table and writes the files."""
    from maml_jax.run import comparison, files

    if not arguments[1:]:
        raise UsageError("no runs are given; use experiments.compare RUN RUN ..., or a folder")
    compared = comparison.compare(arguments[1:])
    if _LABELS.value:
        compared = comparison.labelled(compared, _LABELS.value)
    workdirs = [run.workdir.parent for group in compared.groups for run in group.runs]
    default = os.path.join(os.path.commonpath(workdirs), "comparison")
    output = files.local_folder(_OUTPUT.value or default)
    with files.writing(output):
        output.mkdir(parents=True, exist_ok=True)
    files.write(output / "table.csv", comparison.as_csv(compared))
    files.write(output / "table.tex", comparison.as_latex(compared))
    figure = comparison.draw(compared)
    for kind in ("png", "pdf"):
        content = io.BytesIO()
        figure.savefig(content, format=kind, dpi=150, bbox_inches="tight")
        files.write(output / f"figure.{kind}", content.getvalue())
    print(comparison.as_text(compared))
    print(f"written: table.csv, table.tex, figure.png and figure.pdf in {output}")


if __name__ == "__main__":
    cli.run(main, takes_arguments=True)
