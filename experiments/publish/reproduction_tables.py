"""Tables of runs beside published results: the sinusoid, images, and the list of algorithms."""

from collections import defaultdict

import numpy as np

from experiments.ledger.records import read as read_row
from experiments.ledger.rows import ROWS
from experiments.publish import results
from experiments.publish.formats import LOSSES, markdown, mean_ci, over_tasks, value, with_origin
from experiments.publish.results import Record
from maml_jax.run.algorithms import ALGORITHMS
from maml_jax.run.formats import diverged, number

PUBLISHED = {"maml": (0.67, 0.38, 0.35), "pretrained": (2.41, 2.23, 2.19)}  # 5 points
STEPS = (1, 5, 10)
STEP_HEADS = ["1 step", "5 steps", "10 steps"]
IMAGES = (  # rows of the ledger in the README; the shorter ones stand in for them
    "omniglot-5way-1shot",
    "omniglot-5way-5shot",
    "omniglot-20way-1shot",
    "omniglot-mlp-5way-1shot",
    "omniglot-mlp-5way-5shot",
    "cifar-fs-5way-1shot",
)


def sinusoid_paper() -> str:
    """Support points × runs against 1, 5 and 10 inner steps."""
    groups = defaultdict(list)
    for record in results.read("sinusoid_paper")["evaluations"]:
        groups[record["shots"], record["run"]].append(record)
    rows = []
    for (shots, run), records in sorted(groups.items()):
        published = PUBLISHED.get(run, ()) if shots == 5 else ()
        medians = [np.mean([r["loss_median"][step] for r in records]) for step in STEPS]
        left_out = sum(record["nonfinite_episodes"] for record in records)
        rows.append(
            [
                str(shots),
                run,
                *(over_tasks(records, step) for step in STEPS),
                " / ".join(map(str, published)),
                " / ".join(map(number, medians)),
                f"{left_out} of {sum(record['num_episodes'] for record in records)}",
            ]
        )
    head = ["support points", "run", *STEP_HEADS, "published", "medians", "not finite"]
    return markdown(head, rows)


def sinusoid_seeds() -> str:
    """MAML's 5-point test seed by seed."""
    rows = [
        [record["run"], str(record["seed"]), *(mean_ci([record], step) for step in STEPS)]
        for record in results.read("sinusoid_paper")["evaluations"]
        if record["run"].startswith("maml") and record["shots"] == 5
    ]
    return markdown(["run", "seed", *STEP_HEADS], sorted(rows))


def sinusoid_default() -> str:
    """The card that newcomers run, over its seeds, and its baselines."""
    record = results.read("sinusoid_default")
    groups = defaultdict(list)
    for run in record["runs"]:
        groups[run["run"]].append(run)
    rows = [
        [
            name,
            str(len(runs)),
            *(mean_ci(runs, step) for step in (0, *STEPS)),
            number(np.mean([run["loss_median"][-1] for run in runs])),
            f"{sum(map(diverged, runs))} of {sum(run['num_episodes'] for run in runs):,}",
            f"{np.mean([run['train_seconds'] for run in runs]):.0f} s",
        ]
        for name, runs in groups.items()
    ]
    head = ["run", "seeds", "before", *STEP_HEADS, "median", "diverged", "training"]
    return with_origin(markdown(head, rows), record)


def sinusoid_default_seeds() -> str:
    """The same seed by seed."""
    record = results.read("sinusoid_default")
    runs = [run for run in record["runs"] if run["run"] == record["config"]["algorithm"]]
    rows = [
        [
            str(run["seed"]),
            *(mean_ci([run], step) for step in (0, *STEPS)),
            number(run["loss_median"][-1]),
            str(sum(np.diff(run["loss"]) > 0)),
            str(diverged(run)),
        ]
        for run in runs
    ]
    return markdown(["seed", "before", *STEP_HEADS, "median", "steps that rise", "diverged"], rows)


def _arms(name: str) -> dict[str, Record]:
    """Arm -> row of a kept study; none if it has not been run."""
    path = results.RESULTS / f"{name}.json"
    return {row["arm"]: row for row in results.read(name)["rows"]} if path.exists() else {}


def algorithms() -> str:
    """The table of algorithms, with what the studies at equal compute measured."""
    losses, accuracies = _arms("equal_compute_sinusoid"), _arms("equal_compute_omniglot")
    rows = [
        [
            f"`{name}`",
            entry.paper,
            entry.summary,
            ", ".join(
                f"`{key}` as at test" if callable(chosen) else f"`{key}={chosen}`"
                for key, chosen in entry.settings.items()
            ),
            " / ".join(value(losses[name][of]["mean"], False) for of in LOSSES)
            if name in losses
            else "",
            f"{100 * accuracies[name]['accuracy']['mean']:.1f}" if name in accuracies else "",
        ]
        for name, entry in ALGORITHMS.items()
    ]
    head = ["`algorithm`", "paper", "what it is here", "what it sets", "sinusoid, MSE / median"]
    return markdown([*head, "Omniglot 20-way 1-shot, %"], rows)


def summary() -> str:
    """The main results beside the published ones, for the README."""
    published = read_row("sinusoid-5points")
    chosen = _own_runs(results.read("sinusoid_default"))
    once, _, last = map(str, PUBLISHED["maml"])
    rows = [
        _summary("sinusoid, MSE after 1 step", once, published, 1, "sinusoid.py:paper"),
        _summary("sinusoid, MSE after 10 steps", last, published, 10, "sinusoid.py:paper"),
        _summary("sinusoid, MSE after 10 steps, another recipe", last, chosen, 10, "sinusoid.py"),
    ]
    for name in IMAGES:
        kept = {of: read_row(of) for of in (name, f"{name}-cpu")}
        for of in [of for of, runs in kept.items() if runs][:1]:
            row, card = ROWS[of], ROWS[of].command_card.removeprefix("configs/")
            rows.append(_summary(f"{row.text}, %", row.published[0].text, kept[of], -1, card))
    return markdown(["", "published", "ours", "seeds", "config"], rows)


def _summary(text: str, published: str, runs: list[Record], step: int, card: str) -> list[str]:
    measure = "accuracy" if "accuracy" in runs[0] else "loss"
    return [text, published, mean_ci(runs, step, measure), str(len(runs)), f"`{card}`"]


def _own_runs(record: Record) -> list[Record]:
    """The runs of a kept result, without their baselines."""
    return [run for run in record["runs"] if run["run"] == record["config"]["algorithm"]]
