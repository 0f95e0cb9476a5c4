"""Tables of runs beside published results: the sinusoid, images, and the list of algorithms."""

import re
from collections import defaultdict

import numpy as np

from experiments.publish import results
from experiments.publish.formats import LOSSES, markdown, mean_ci, over_tasks, value, with_origin
from experiments.publish.results import Record
from maml_jax.run.algorithms import ALGORITHMS
from maml_jax.run.formats import diverged, number

PUBLISHED = {"maml": (0.67, 0.38, 0.35), "pretrained": (2.41, 2.23, 2.19)}  # 5 points
STEPS = (1, 5, 10)
STEP_HEADS = ["1 step", "5 steps", "10 steps"]
IMAGES = {  # result -> what it is, published accuracy
    "omniglot_5way_1shot": ("Omniglot 5-way 1-shot, conv", "98.7 ± 0.4"),
    "omniglot_5way_1shot_published_init": ("the same, published last layer", "98.7 ± 0.4"),
    "omniglot_5way_5shot": ("Omniglot 5-way 5-shot, conv", "99.9 ± 0.1"),
    "omniglot_mlp_5way_1shot": ("Omniglot 5-way 1-shot, MLP", "89.7 ± 1.1"),
    "glyphs": ("glyphs 5-way 1-shot, conv with 32 filters", ""),
    "cifar_fs_5way_1shot": ("CIFAR-FS 5-way 1-shot", "58.9 ± 1.9"),
}


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
    losses, accuracies = _arms("halting_sinusoid"), _arms("halting_omniglot")
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


def images() -> str:
    """Accuracies of the image runs: last and validation-selected parameters."""
    rows, hardware = [], dict[str, None]()
    for name, (text, published) in IMAGES.items():
        if not (results.RESULTS / f"{name}.json").exists():
            continue
        record = results.read(name)
        run, config = record["runs"][0], record["config"]
        accuracies = [mean_ci([of], measure="accuracy") for of in (run, run["selected"])]
        rows.append(
            [
                text,
                *accuracies,
                published,
                "; ".join(_differences(config)),
                f"{run['meta_step']:,} of {config['meta_batch_size']} tasks",
                f"{run['num_episodes']:,}",
                f"{run['train_seconds'] / 60:.0f} min",
            ]
        )
        hardware[record["hardware"]] = None
    head = ["row", "accuracy, last", "selected by validation", "published"]
    head += ["differs from the published recipe in", "meta-steps", "test episodes", "training"]
    return f"{markdown(head, rows)}\n\n{'; '.join(hardware)}."


def summary() -> str:
    """The main results beside the published ones, for the README."""
    published = results.read("sinusoid_paper")["evaluations"]
    published = [of for of in published if of["run"] == "maml" and of["shots"] == 5]
    chosen = _own_runs(results.read("sinusoid_default"))
    once, _, last = map(str, PUBLISHED["maml"])
    rows = [
        _summary("sinusoid, MSE after 1 step", once, published, 1, "sinusoid.py:paper"),
        _summary("sinusoid, MSE after 10 steps", last, chosen, 10, "sinusoid.py"),
    ]
    for name, (text, accuracy) in IMAGES.items():
        path = results.RESULTS / f"{name}.json"
        if not accuracy or name.endswith("published_init") or not path.exists():
            continue
        record = results.read(name)
        card = re.findall(r"--config=configs/(\S+)", record["command"])[0]
        rows.append(_summary(f"{text}, %", accuracy, _own_runs(record), -1, card))
    return markdown(["", "published", "ours", "seeds", "config"], rows)


def _summary(text: str, published: str, runs: list[Record], step: int, card: str) -> list[str]:
    measure = "accuracy" if "accuracy" in runs[0] else "loss"
    return [text, published, mean_ci(runs, step, measure), str(len(runs)), f"`{card}`"]


def _own_runs(record: Record) -> list[Record]:
    """The runs of a kept result, without their baselines."""
    return [run for run in record["runs"] if run["run"] == record["config"]["algorithm"]]


def _differences(config: Record) -> list[str]:
    """Of a config from the published recipe."""
    model = config["model"]
    differences = {
        "cosine outer rate": config["outer"]["schedule"] == "cosine",
        "Xavier's last layer": model["name"] == "conv4" and model.get("head_init") == "xavier",
        "fewer meta-steps": config["num_meta_steps"] < 60_000,
    }
    return [text for text, differs in differences.items() if differs]
