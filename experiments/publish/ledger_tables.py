"""The tables of the ledger: published numbers beside ours, recipes, and what was not run."""

from collections.abc import Iterator

from experiments.ledger import records, summary
from experiments.ledger.row import Row, conflicts, differences_of_tests, protocol
from experiments.ledger.rows import ROWS
from experiments.publish import masks
from experiments.publish.formats import DIVERGED, LARGEST, markdown
from experiments.publish.results import Record
from experiments.studies.comparisons import last, paired_interval
from maml_jax.errors import UsageError
from maml_jax.run.comparison import over_seeds
from maml_jax.run.formats import duration, interval, number

_SPARSE = ("sparse-baseline", "sparse-relu-maml", "sparse-maml")


def _kept() -> Iterator[tuple[str, Row, list[Record]]]:
    """Rows with runs, each with the shorter ones beside it."""
    order = sorted(ROWS, key=lambda name: [*ROWS].index(ROWS[name].variant_of or name))
    for name in order:
        if runs := records.read(name):
            yield name, ROWS[name], runs


def _ours(row: Row, runs: list[Record]) -> list[str]:
    """Means, and their intervals over seeds and over test tasks, after every published step."""
    means, seeds, tasks = [], [], []
    for step in row.steps:
        of = summary.measured(row, runs, step)
        shown = of.mean < LARGEST
        form = "{:.2f}".format if summary.is_accuracy(runs) else number
        means.append(form(of.mean) if shown else DIVERGED)
        seeds.append(form(of.over_seeds) if shown and len(runs) > 1 else "-")
        tasks.append(form(of.over_tasks) if shown else "-")
    return [" / ".join(of) for of in (means, seeds, tasks)]


def _once(runs: list[Record], key: str) -> str:
    return "; ".join(dict.fromkeys(str(run[key]) for run in runs))


def ledger() -> str:
    """Every row that was run."""
    body = []
    for name, row, runs in _kept():
        body.append(
            [
                row.text,
                " / ".join(of.text for of in row.published),
                *_ours(row, runs),
                ", ".join(str(run["seed"]) for run in runs),
                summary.verdict(row, runs),
                f"{max(run['meta_step'] for run in runs):,}",
                f"{sum(run['num_episodes'] for run in runs):,}",
                duration(60 * summary.minutes(runs)),
                _once(runs, "hardware"),
                f"[`{name}`](#recipes)",
            ]
        )
    head = ["", "published", "ours", "± over seeds", "± over tasks", "seeds", "verdict"]
    head += ["meta-steps", "test tasks", "time of a seed", "hardware", "row"]
    return markdown(head, body)


def _differences(row: Row) -> str:
    """What differs from the published recipe."""
    changed = []
    if row.variant_of:
        published = ROWS[row.variant_of]
        changed = [
            f"`{of.replace(': ', '` ').replace(' -> ', ' → ')}"
            for of in (
                *conflicts(published.config(), row.config()),
                *differences_of_tests(published, row),
            )
        ]
    deviations = row.deviations or (ROWS[row.variant_of].deviations if row.variant_of else "")
    return "; ".join([*changed, *([deviations] if deviations else [])]) or "nothing that we know of"


def recipes() -> str:
    """How every row that was run is trained and tested, and the command."""
    body = [
        [
            f"`{name}`",
            row.paper,
            row.source,
            protocol(row),
            _differences(row),
            f"`{row.flags}`",
            f"`python -m experiments.reproduce --row={name} --seeds=0:3`",
        ]
        for name, row, _ in _kept()
    ]
    head = ["row", "method", "published in", "protocol", "differs from the publication in"]
    return markdown([*head, "flags of `experiments.train`", "command"], body)


def ordering() -> str:
    """MAML beside the two sparse algorithms on CIFAR-FS, paired by seed.

    Raises:
      UsageError: fewer than two seeds have all three of them.
    """
    rows = [f"{of}-cifar-fs-5way-5shot-cpu" for of in _SPARSE]
    by_seed = [{run["seed"]: run for run in records.read(name)} for name in rows]
    seeds = sorted(set.intersection(*map(set, by_seed)))
    if len(seeds) < 2:
        raise UsageError(
            "too few seeds were run; use experiments.reproduce --row=" + ",".join(rows)
        )
    runs = [[of[seed] for seed in seeds] for of in by_seed]
    baseline, body = last(runs[0], "accuracy"), []
    for name, of in zip(rows, runs, strict=True):
        own = summary.measured(ROWS[name], of)
        against = interval(*paired_interval(last(of, "accuracy"), baseline), percent=True)
        shown = "" if of is runs[0] else against
        body.append([ROWS[name].paper, f"{own.mean:.2f} ± {own.over_seeds:.2f}", shown])
    head = ["", f"accuracy, %, of {len(seeds)} seeds", "difference from MAML"]
    return markdown(head, body)


def layers() -> str:
    """Layer by layer, the weights that sparse-MAML's masks let adapt."""
    found = masks.shares(masks.kept(masks.ROW))
    body = [
        [layer, interval(*over_seeds([(of, None) for of in values]), percent=True)]
        for layer, values in found.items()
    ]
    return markdown(["layer", "weights that adapt, %"], body)


def not_run() -> str:
    """The other rows."""
    run = {name for name, *_ in _kept()}
    body = [
        [
            f"`{name}`",
            f"{row.text}, {row.paper}",
            " / ".join(of.text for of in row.published),
            row.source,
            "; ".join(of for of in (_differences(row), row.needs and f"needs {row.needs}") if of),
            duration(60 * row.cpu_minutes) if row.cpu_minutes else "",
        ]
        for name, row in ROWS.items()
        if name not in run
    ]
    head = ["row", "", "published", "published in", "differs from the publication in"]
    return markdown([*head, "a seed on 2 CPU cores, about"], body)
