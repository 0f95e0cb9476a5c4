"""Tables of reinforcement learning: returns beside the published ones."""

from experiments.publish import results
from experiments.publish.formats import markdown
from experiments.publish.results import Record
from maml_jax.rl.published import PUBLISHED, SOURCE
from maml_jax.run.comparison import over_seeds
from maml_jax.run.formats import interval

UPDATES = range(4)


def _returns(records: list[Record]) -> list[str]:
    """Mean over seeds after each update with its interval; of one seed, that over tasks."""
    return [
        interval(*over_seeds([(of["return"][k], of["return_ci95"][k]) for of in records]))
        for k in UPDATES
    ]


def _published(environment: str, run: str) -> list[str]:
    of = PUBLISHED[environment][run]
    errors = of.standard_error or (float("nan"),) * len(of.mean)
    cells = [interval(mean, 1.96 * error) for mean, error in zip(of.mean, errors, strict=True)]
    return (cells * len(UPDATES) if len(cells) == 1 else cells)[: len(UPDATES)]


def returns(environment: str, names: dict[str, str]) -> str:
    """Runs against updates, and below them the published ones.

    Args:
      environment: of the published returns.
      names: kept result -> what it is.
    """
    rows = []
    for name, label in names.items():
        kept = results.read(name)
        for run in dict.fromkeys(of["run"] for of in kept["runs"]):
            records = [of for of in kept["runs"] if of["run"] == run]
            seconds = sum(of["train_seconds"] for of in records) / len(records)
            rows.append(
                [
                    label if run == kept["config"]["algorithm"] else f"{label}: {run}",
                    str(len(records)),
                    f"{records[0]['meta_step']:,}",
                    *_returns(records),
                    f"{seconds / 60:.1f}",
                ]
            )
    for run in PUBLISHED[environment]:
        rows.append([f"{run}, {SOURCE}", "", "", *_published(environment, run), ""])
    head = ["run", "seeds", "meta-steps", "before", "1 update"]
    head += [f"{k} updates" for k in UPDATES if k > 1] + ["minutes"]
    return markdown(head, rows)
