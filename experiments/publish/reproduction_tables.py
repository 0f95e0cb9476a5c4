"""Tables of runs beside published results: the sinusoid, images, and the list of algorithms."""

from collections import defaultdict

import numpy as np

from experiments.publish import results
from experiments.publish.formats import LOSSES, markdown, mean_ci, value
from experiments.publish.results import Record
from maml_jax.run.algorithms import ALGORITHMS

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
                *(mean_ci(records, step) for step in STEPS),
                " / ".join(map(str, published)),
                " / ".join(f"{median:.3f}" for median in medians),
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
    """The quick default run."""
    record = results.read("sinusoid_default")
    seconds = sum(run["train_seconds"] + run["evaluate_seconds"] for run in record["runs"])
    rows = [
        [run["run"], *(mean_ci([run], step) for step in STEPS), f"{run['train_seconds']:.0f} s"]
        for run in record["runs"]
    ]
    table = markdown(["run", *STEP_HEADS, "training"], rows)
    return (
        f"{table}\n\nTraining and evaluation of all three together: {seconds:.0f} s on "
        f"{record['hardware']}."
    )


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
        accuracies = [
            f"{100 * of['accuracy'][-1]:.2f} ± {100 * of['accuracy_ci95'][-1]:.2f}"
            for of in (run, run["selected"])
        ]
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
    waves = results.read("sinusoid_paper")
    runs = [of for of in waves["evaluations"] if of["run"] == "maml" and of["shots"] == 5]
    rows = [
        [
            "sinusoid, 5 points: MSE after 1 step",
            str(PUBLISHED["maml"][0]),
            mean_ci(runs, 1),
            str(len(runs)),
            "`python -m experiments.studies.sinusoid`",
        ]
    ]
    for name, (text, published) in IMAGES.items():
        if not published or not (results.RESULTS / f"{name}.json").exists():
            continue
        record = results.read(name)
        run = record["runs"][0]
        ours = f"{100 * run['accuracy'][-1]:.2f} ± {100 * run['accuracy_ci95'][-1]:.2f}"
        card = next(word for word in record["command"].split() if word.startswith("--config="))
        command = f"`python -m experiments.train {card}`"
        rows.append([f"{text}: accuracy, %", published, ours, str(len(record["runs"])), command])
    return markdown(["", "published", "ours", "seeds", "command"], rows)


def _differences(config: Record) -> list[str]:
    """Of a config from the published recipe."""
    model = config["model"]
    differences = {
        "cosine outer rate": config["outer"]["schedule"] == "cosine",
        "Xavier's last layer": model["name"] == "conv4" and model.get("head_init") == "xavier",
        "fewer meta-steps": config["num_meta_steps"] < 60_000,
    }
    return [text for text, differs in differences.items() if differs]
