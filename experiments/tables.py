"""Writes the tables of both READMEs from the results that the repository keeps.

python -m experiments.tables
"""

import pathlib
import re
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from absl import app

from experiments import results_io, studies
from maml_jax.algorithms import ALGORITHMS
from maml_jax.errors import UsageError

PAGES = (pathlib.Path(__file__).parent.parent / "README.md", results_io.RESULTS / "README.md")
PUBLISHED = {"maml": (0.67, 0.38, 0.35), "pretrained": (2.41, 2.23, 2.19)}  # 5 points, 1/5/10 steps
STEPS = (1, 5, 10)
LOSSES = {"loss": "MSE", "loss_median": "median"}  # over tasks
EQUAL_COMPUTE = 0.05  # relative difference of C up to which arms are compared


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _mean_ci(records: list[dict[str, Any]], step: int) -> str:
    """Mean over seeds; the interval of the mean of independent estimates."""
    mean = np.mean([record["loss"][step] for record in records])
    ci95 = np.sqrt(np.sum([record["loss_ci95"][step] ** 2 for record in records])) / len(records)
    return f"{mean:.3f} ± {ci95:.3f}" if mean < 1e4 else f"{mean:.0e} ± {ci95:.0e}"


def sinusoid_paper() -> str:
    """Shots × runs against 1, 5 and 10 inner steps."""
    groups = defaultdict(list)
    for record in results_io.read("sinusoid_paper")["evaluations"]:
        groups[record["shots"], record["run"]].append(record)
    rows = []
    for (shots, run), records in sorted(groups.items()):
        published = PUBLISHED.get(run) if shots == 5 else None
        cells = [_mean_ci(records, step) for step in STEPS]
        left_out = sum(record["nonfinite_episodes"] for record in records)
        medians = [np.mean([r["loss_median"][step] for r in records]) for step in STEPS]
        shown = [
            " / ".join(map(str, published)) if published else "",
            " / ".join(f"{median:.3f}" for median in medians),
        ]
        rows.append(
            [
                str(shots),
                run,
                *cells,
                *shown,
                f"{left_out} of {sum(r['num_episodes'] for r in records)}",
            ]
        )
    head = ["support points", "run", "1 step", "5 steps", "10 steps", "published", "medians"]
    return _markdown([*head, "not finite"], rows)


def sinusoid_seeds() -> str:
    """MAML's 5-point test seed by seed."""
    rows = [
        [record["run"], str(record["seed"]), *(_mean_ci([record], step) for step in STEPS)]
        for record in results_io.read("sinusoid_paper")["evaluations"]
        if record["run"].startswith("maml") and record["shots"] == 5
    ]
    rows.sort()
    return _markdown(["run", "seed", "1 step", "5 steps", "10 steps"], rows)


def sinusoid_default() -> str:
    """The quick default run."""
    record = results_io.read("sinusoid_default")
    seconds = sum(run["train_seconds"] + run["evaluate_seconds"] for run in record["runs"])
    rows = [
        [run["run"], *(_mean_ci([run], step) for step in STEPS), f"{run['train_seconds']:.0f} s"]
        for run in record["runs"]
    ]
    table = _markdown(["run", "1 step", "5 steps", "10 steps", "training"], rows)
    return (
        f"{table}\n\nTraining and evaluation of all three together: {seconds:.0f} s on "
        f"{record['hardware']}."
    )


def benchmark_sinusoid() -> str:
    """Meta-steps per second of the three ways to run the sinusoid."""
    record = results_io.read("benchmark_sinusoid")
    speed = record["meta_steps_per_second"]
    seconds = {name: np.array(values) for name, values in record["seconds"].items()}
    names = {
        "scanned": "this library, 1,000 meta-steps a dispatch",
        "dispatched": "this library, one meta-step a dispatch",
        "python_loop": "reverse-over-reverse Python-loop MAML in JAX, jitted",
    }
    rows = []
    for name, text in names.items():
        ratio = np.median(seconds[name] / seconds["scanned"])
        rows.append([text, f"{speed[name]:.0f}", f"{ratio:.2f}"])
    head = ["sinusoid, 25 tasks, K = 1", "meta-steps/s", "time relative to the first"]
    return f"{_markdown(head, rows)}\n\n{record['hardware']}; `{record['command']}`."


def benchmark_inner_steps() -> str:
    """Time and temporary memory of the meta-gradient against K."""
    rows: dict[int, dict[str, dict[str, float]]] = defaultdict(dict)
    for row in results_io.read("benchmark_sinusoid")["against_inner_steps"]:
        rows[row["num_steps"]][row["meta_gradient"]] = row
    body = []
    for number, kinds in rows.items():
        cells = [
            f"{kinds[kind][name]:.2f}"
            for name in ("milliseconds", "temporary_megabytes")
            for kind in ("exact", "reverse")
        ]
        body.append([str(number), *cells])
    head = ["K", "exact, ms", "reverse, ms", "exact, MB", "reverse, MB"]
    return _markdown(head, body)


def _arms(name: str) -> dict[str, dict[str, Any]]:
    """Arm -> row of a kept study; none where it has not been run."""
    path = results_io.RESULTS / f"{name}.json"
    return {row["arm"]: row for row in results_io.read(name)["rows"]} if path.exists() else {}


def algorithms() -> str:
    """The rows of the table of algorithms, with what the halting studies measured."""
    losses, accuracies = _arms("halting_sinusoid"), _arms("halting_omniglot")
    rows = [
        [
            f"`{name}`",
            row.paper,
            row.summary,
            ", ".join(f"`{key}={value}`" for key, value in row.settings.items()),
            " / ".join(_value(losses[name][of]["mean"], False) for of in LOSSES)
            if name in losses
            else "",
            f"{100 * accuracies[name]['accuracy']['mean']:.1f}" if name in accuracies else "",
        ]
        for name, row in ALGORITHMS.items()
    ]
    head = ["`algorithm`", "paper", "what it is here", "what it sets", "sinusoid, MSE / median"]
    return _markdown([*head, "Omniglot 20-way 1-shot, %"], rows)


def known_lengths() -> str:
    """Learned lengths against the best ones of quadratics."""
    record = results_io.read("known_lengths")
    rows = [
        [
            run["gate"],
            f"{run['start']:g}",
            f"{run['cost']:g}",
            f"{100 * run['share_within_1']:.1f}%",
            f"{run['mean_error']:.2f}",
            f"{100 * run['largest_relative_gap']:.1f}%",
            f"{run['mean_length']:.2f} ({run['best_mean_length']:.2f})",
        ]
        for run in record["runs"]
    ]
    head = ["gate", "first length", "cost", "within 1 step of the best K", "mean error"]
    return _markdown([*head, "largest gap of a loss", "mean K (best)"], rows)


def _verdict(difference: float, half_width: float, accuracy: bool) -> str:
    better = difference if accuracy else -difference
    return "wins" if better > half_width else "loses" if better < -half_width else "even"


def _against(
    difference: float, half_width: float, accuracy: bool, relative_compute: float = 1.0
) -> str:
    """A paired difference with its interval, and who wins; an accuracy in %.

    At unequal compute the cheaper arm may win, and the dearer one lose: there is no other verdict.
    """
    verdict = _verdict(difference, half_width, accuracy)
    if abs(relative_compute - 1) > EQUAL_COMPUTE:
        fair = verdict == ("loses" if relative_compute > 1 else "wins")
        verdict = f"{verdict} at" if fair else "at"
        verdict += f" {relative_compute:.2f} C"
    if accuracy:
        return f"{100 * difference:+.2f} ± {100 * half_width:.2f} {verdict}"
    form = _form(max(abs(difference), half_width))
    return f"{difference:+{form}} ± {half_width:{form}} {verdict}"


def _value(value: float, accuracy: bool) -> str:
    return f"{100 * value:.2f}" if accuracy else f"{value:{_form(value)}}"


def _form(loss: float) -> str:
    return ".4f" if loss < 0.02 else ".3f" if loss < 1e4 else ".0e"


def _compute_cell(runs: list[dict[str, Any]], reference: float) -> str:
    """Mean C over seeds; in brackets relative to the reference, with the range over seeds."""
    compute = studies.last(runs, "inner_compute")
    relative = compute / reference
    span = f"; {relative.min():.2f} to {relative.max():.2f}" if np.ptp(compute) else ""
    return f"{compute.mean() / 1e6:.4g} ({relative.mean():.2f}{span})"


def _length_cells(row: dict[str, Any], k_max: int) -> list[str]:
    if "mean" not in row:
        return [str(k_max), str(k_max), "", "", "", ""]
    p99 = f"{row['p99']:.2f}"
    if any(row.get("p99_difference", ())):
        p99 += " ({:+.2f} ± {:.2f})".format(*row["p99_difference"])
    shown = [f"{row['mean']:.2f}", f"{row['p90']:.2f}", p99, f"{row['max']:.2f}"]
    return [str(k_max), *shown, f"{row['share_at_most']:.2%}"]


def study(name: str) -> str:
    """Arms of a kept study: measures, differences to its reference arm, compute and lengths."""
    record = results_io.read(name)
    reference, accuracy = record["reference"], record["measure"] == "accuracy"
    held = name.startswith("halting")  # arms are held to the reference's compute
    measures = {"accuracy": "accuracy, %"} if accuracy else LOSSES
    rows = {row["arm"]: row for row in record["rows"]}
    body = []
    for arm in sorted(rows, key=lambda arm: rows[arm][list(measures)[-1]]["mean"]):
        row, cells = rows[arm], []
        for measure in measures:
            of = row[measure]
            relative = row["compute"] / rows[reference]["compute"]
            relative = relative if held else max(relative, 1.0)  # less for no worse is a gain
            against = _against(of["difference"], of["half_width"], accuracy, relative)
            cells += [_value(of["mean"], accuracy), "" if arm == reference else against]
        settings = record["arms"][arm]["overrides"] | row["choice"]
        k_max = settings.get("inner.num_steps", record["config"]["inner"]["num_steps"])
        cells.append(_compute_cell(record["arms"][arm]["runs"], rows[reference]["compute"]))
        dropped = " / ".join(
            str(row[of]) for of in ("nonfinite", "nonfinite_training") if of in row
        )
        chosen = ", ".join(f"{key}={value:g}" for key, value in row["choice"].items())
        body.append([arm, *cells, *_length_cells(row, k_max), dropped, chosen])
    head = [cell for text in measures.values() for cell in (text, f"against `{reference}`")]
    lengths = ["K_max", "mean K", "p90", "p99", "max", "at K_max"]
    head = ["arm", *head, "C, MFLOP (relative; seeds)", *lengths]
    head += ["not finite, test / training", "tuned"]
    seeds = len(record["arms"][reference]["runs"])
    parts = (*record.get("extends", ()), record)
    commands = [of["command"] for of in parts]
    runs = [run for arm in record["arms"].values() for run in arm["runs"]]
    machines = dict.fromkeys(of["hardware"] for of in (*parts, *runs) if "hardware" in of)
    diverged = ", ".join(f"`{arm}`" for arm in record["arms"] if arm not in rows)
    return (
        f"{_markdown(head, body[::-1] if accuracy else body)}\n\n{seeds} seeds, "
        f"{record['config']['num_meta_steps']:,} meta-steps; "
        f"{' and '.join(machines)}, "
        f"{record['run_seconds'] / 60:.0f} minutes of training and testing; "
        f"{', '.join(f'`{command}`' for command in commands)}."
        + (f" Diverged in every trial or in training: {diverged}." if diverged else "")
    )


def rates() -> str:
    """Last error of every method on the quadratics, and how often it restarted."""
    record = results_io.read("acceleration_rates")
    errors, restarts = record["errors"], record["restarts"]

    def cell(condition: str, method: str) -> str:
        number = restarts[condition].get(method)
        text = "" if number is None else f" ({number} restart{'s' * (number != 1)})"
        return f"{errors[condition][method][-1]:.1e}{text}"

    body = [
        [method, *(cell(of, method) for of in errors)] for method in next(iter(errors.values()))
    ]
    head = ["method", *(f"condition {condition}" for condition in errors)]
    return f"{_markdown(head, body)}\n\n{record['hardware']}; `{record['command']}`."


def halted_early() -> str:
    """Methods made for a final T: loss of a coordinate that halts earlier, and if made for it."""
    record = results_io.read("acceleration_rates")["halted_early"]
    body = [
        [condition, method, *(f"{loss:.1e} ({made:.1e})" for loss, made in losses)]
        for condition, methods in record["losses"].items()
        for method, losses in methods.items()
    ]
    steps = [f"{halted} of {record['num_steps']} steps" for halted in record["halted"]]
    return _markdown(["condition", "method", *steps], body)


def pairs(name: str) -> str:
    """Adaptive K against each other arm of a kept halting study, paired by seed."""
    record = results_io.read(name)
    arms, accuracy = record["arms"], record["measure"] == "accuracy"
    compute = {row["arm"]: row["compute"] for row in record["rows"]}
    learned = [arm for arm in arms if arm.startswith("adaptive_k")]
    rows = []
    for other in (arm for arm in arms if arm not in learned):
        for measure, text in {"accuracy": "%"}.items() if accuracy else LOSSES.items():
            reference, cells = studies.last(arms[other]["runs"], measure), []
            for arm in learned:
                values = studies.last(arms[arm]["runs"], measure)
                interval = studies.paired_interval(values, reference)
                cells.append(_against(*interval, accuracy, compute[arm] / compute[other]))
            rows.append([other, text, *cells])
    return _markdown(["against", "measure", *learned], rows)


def shorter(name: str) -> str:
    """Accelerated arms against every gradient descent: 99th percentile of K, and the measure.

    Beside them what C leaves out: the optimizer's own matrix products, relative to a full step.
    """
    record = results_io.read(name)
    accuracy = record["measure"] == "accuracy"
    measure = "accuracy" if accuracy else "loss_median"
    arms = {name: arm["runs"] for name, arm in record["arms"].items() if arm["runs"]}
    descents = [arm for arm in arms if "inner.optimizer" not in record["arms"][arm]["overrides"]]

    def p99(arm: str) -> np.ndarray:
        return studies.of_lengths(arms[arm], "p99")

    def against(arm: str, descent: str) -> str:
        values, reference = (studies.last(arms[of], measure) for of in (arm, descent))
        verdict = _verdict(*studies.paired_interval(values, reference), accuracy)
        difference, half_width = studies.paired_interval(p99(arm), p99(descent))
        return f"{difference:+.1f} ± {half_width:.1f}; {measure.split('_')[-1]} {verdict}"

    def products(arm: str) -> str:
        lengths = arms[arm][0]["lengths"]
        full_steps = lengths["inner_compute"] / lengths["inner_compute_share"]
        k_max = record["config"]["inner"]["num_steps"]
        return f"{record['arms'][arm]['optimizer_flops'] / full_steps * k_max:.0%}"

    others = sorted((arm for arm in arms if arm not in descents), key=lambda arm: p99(arm).mean())
    rows = [
        [arm, f"{p99(arm).mean():.1f}", *(against(arm, of) for of in descents), products(arm)]
        for arm in others
    ]
    of_descents = [f"against `{arm}` (p99 {p99(arm).mean():.1f})" for arm in descents]
    return _markdown(["arm", "p99 of K", *of_descents, "products of the optimizer"], rows)


def step_sizes() -> str:
    """Of arms with a step size for every step: its mean over the parameters that take the step."""
    record = results_io.read("length_rates")
    most = max(len(row["rate"]) for of in record["steps"].values() for row in of.values())
    rows = []
    for arm, of in record["steps"].items():
        for path, row in of.items():
            pairs = zip(row["count"], row["rate"], strict=True)
            cells = [f"{count}: {rate:.3f}" for count, rate in pairs]
            rows.append([arm, path, *cells, *[""] * (most - len(cells))])
    table = _markdown(["arm", "tensor", *(f"step {k + 1}" for k in range(most))], rows)
    return f"{table}\n\n{record['hardware']}; `{record['command']}`."


PRICES = {1: "", 4: "_cost_4", 16: "_cost_16"}  # of a step -> kept study


def priced() -> dict[str, dict[int, list[dict[str, Any]]]]:
    """Arm -> price of a step -> its runs, of the reference and arms trained at several prices."""
    studied = {
        price: results_io.read(f"acceleration_sinusoid_20{of}") for price, of in PRICES.items()
    }
    arms = {
        arm: {price: of["arms"][arm]["runs"] for price, of in studied.items() if arm in of["arms"]}
        for arm in studied[1]["arms"]
    }
    return {arm: of for arm, of in arms.items() if len(of) > 1 or arm == studied[1]["reference"]}


def prices() -> str:
    """Median loss and 99th percentile of K at each price, against the reference at price 1."""
    arms = priced()
    reference = arms[results_io.read("acceleration_sinusoid_20")["reference"]][1]
    measures: dict[str, tuple[Callable[[Any], np.ndarray], str]] = {
        "median": (lambda runs: studies.last(runs, "loss_median"), ".4f"),
        "p99 of K": (lambda runs: studies.of_lengths(runs, "p99"), ".1f"),
    }

    def cell(runs: list[dict[str, Any]], measure: str) -> str:
        of, form = measures[measure]
        if runs is reference:
            return f"{of(runs).mean():{form}}"
        difference, half_width = studies.paired_interval(of(runs), of(reference))
        return f"{of(runs).mean():{form}} ({difference:+{form}} ± {half_width:{form}})"

    rows = [
        [arm, measure, *(cell(of[price], measure) if price in of else "" for price in PRICES)]
        for arm, of in arms.items()
        for measure in measures
    ]
    return _markdown(["arm", "", *(f"price {price}" for price in PRICES)], rows)


def length_caps(task: str) -> str:
    """Median loss or accuracy of trained runs with longer lengths cut, mean over seeds."""
    record = results_io.read(f"length_caps_{task}")
    rows = []
    for arm, of in record["arms"].items():
        full, *cut = map(np.array, of.values())
        cells = [f"{full.mean():.4f}" if task == "sinusoid" else f"{full.mean():.1%}"]
        for mean, half_width in (studies.paired_interval(values, full) for values in cut):
            cells.append(
                f"{mean:+.4f} ± {half_width:.4f} ({mean / full.mean():+.0%})"
                if task == "sinusoid"
                else f"{100 * mean:+.1f} ± {100 * half_width:.1f}"
            )
        rows.append([arm, *cells])
    labels = dict.fromkeys(label for of in record["arms"].values() for label in of)
    return f"{_markdown(['arm', *labels], rows)}\n\n{record['hardware']}; `{record['command']}`."


def length_rates() -> str:
    """Mean size of a step and momentum of the parameters of every class of lengths."""
    record = results_io.read("length_rates")

    def cell(row: dict[str, Any]) -> str:
        if not row["count"]:
            return ""
        momentum = f", μ {row['momentum']:.2f}" if "momentum" in row else ""
        return f"{row['count']}: {row['rate']:.4f}{momentum}"

    tensors = [
        (arm, path, of) for arm, every in record["arms"].items() for path, of in every.items()
    ]
    rows = [[arm, path, *map(cell, of)] for arm, path, of in tensors]
    ends = [row["lengths"] for row in tensors[0][2]]
    head = [f"K {low} to {high}" if high else f"K {low} and more" for low, high in ends]
    return (
        f"{_markdown(['arm', 'tensor', *head], rows)}\n\n"
        f"{record['hardware']}; `{record['command']}`."
    )


def lengths(name: str, shown: tuple[str, ...]) -> str:
    """Learned lengths of arms of a kept study, tensor by tensor."""
    arms = results_io.read(name)["arms"]
    rows = []
    for arm in shown:
        for path, counts in studies.counts_of(arms[arm]).items():
            of_all = np.repeat(range(len(counts)), counts)
            p99 = f"{np.percentile(of_all, 99):.1f}"
            shares = [f"{100 * counts[k] / counts.sum():.1f}%" for k in (0, -1)]
            cells = [f"{of_all.mean():.2f}", p99, str(of_all.max())]
            rows.append([arm, path, str(counts.sum()), *cells, *shares])
    head = ["arm", "tensor", "parameters, all seeds", "mean K", "p99", "max", "at 0", "at K_max"]
    return _markdown(head, rows)


IMAGES = {  # result -> what it is, published accuracy
    "omniglot_5way_1shot": ("Omniglot 5-way 1-shot, conv", "98.7 ± 0.4"),
    "omniglot_5way_1shot_published_init": ("the same, published last layer", "98.7 ± 0.4"),
    "omniglot_5way_5shot": ("Omniglot 5-way 5-shot, conv", "99.9 ± 0.1"),
    "omniglot_mlp_5way_1shot": ("Omniglot 5-way 1-shot, MLP", "89.7 ± 1.1"),
    "glyphs": ("glyphs 5-way 1-shot, conv with 32 filters", ""),
    "cifar_fs_5way_1shot": ("CIFAR-FS 5-way 1-shot", "58.9 ± 1.9"),
}


def images() -> str:
    """Accuracies of the image runs: last and validation-selected parameters."""
    rows, hardware = [], dict[str, None]()
    for name, (text, published) in IMAGES.items():
        if not (results_io.RESULTS / f"{name}.json").exists():
            continue
        record = results_io.read(name)
        run, config = record["runs"][0], record["config"]
        accuracies = [
            f"{100 * of['accuracy'][-1]:.2f} ± {100 * of['accuracy_ci95'][-1]:.2f}"
            for of in (run, run["selected"])
        ]
        iterations = f"{run['meta_step']:,} of {config['meta_batch_size']} tasks"
        minutes = f"{run['train_seconds'] / 60:.0f} min"
        differs = ["cosine outer rate"] if config["outer"]["schedule"] == "cosine" else []
        differs += ["Xavier's last layer"] if _xavier_head(config) else []
        differs += ["fewer meta-steps"] if config["num_meta_steps"] < 60_000 else []
        cells = [*accuracies, published, "; ".join(differs), iterations]
        rows.append([text, *cells, f"{run['num_episodes']:,}", minutes])
        hardware[record["hardware"]] = None
    head = ["row", "accuracy, last", "selected by validation", "published"]
    head += ["differs from the published recipe in", "meta-steps", "test episodes", "training"]
    return f"{_markdown(head, rows)}\n\n{'; '.join(hardware)}."


def _xavier_head(config: dict[str, Any]) -> bool:
    model = config["model"]
    return bool(model["name"] == "conv4" and model.get("head_init") == "xavier")


def benchmark_convolution() -> str:
    """Time of a meta-gradient by convolution and batching, beside the peers and the floor."""
    record = results_io.read("benchmark_conv4")
    workloads = record["workloads"]
    labels = list(dict.fromkeys(label for w in workloads.values() for label in w["milliseconds"]))
    rows = []
    for label in labels:
        cells = []
        for workload in workloads.values():
            if label in workload["milliseconds"]:
                time, ratio = workload["milliseconds"][label], workload["over_best"][label]
                cells.append(f"{time:,.0f} ({ratio:.2f})")
            else:
                cells.append("")
        rows.append([label, *cells])
    floors = [f"{w['floor_milliseconds']:,.0f}" for w in workloads.values()]
    ratios = [f"{w['over_floor'][w['best']]:.2f}" for w in workloads.values()]
    rows += [["floor: its matrix products alone", *floors], ["best over floor", *ratios]]
    table = _markdown(["ms a meta-gradient (relative to the best)", *workloads], rows)
    return f"{table}\n\n{record['hardware']}; `{record['command']}`."


def benchmark_resnet12() -> str:
    """Time and temporary memory of one task's meta-gradient of ResNet-12."""
    record = results_io.read("benchmark_resnet12")
    rows = [
        [
            str(row["num_steps"]),
            f"`{row['meta_gradient']}`",
            f"{np.median(row['seconds']):.1f}",
            f"{row['temporary_megabytes'] / 1e3:.1f}",
        ]
        for row in record["resnet12"]
    ]
    table = _markdown(["K", "meta-gradient", "seconds", "temporary memory, GB"], rows)
    return f"{table}\n\n{record['hardware']}; `{record['command']}`."


STUDIES = (
    "halting_sinusoid",
    "halting_omniglot",
    "acceleration_sinusoid_20",
    "acceleration_sinusoid_20_seeds_601",
    "acceleration_sinusoid_20_cost_4",
    "acceleration_sinusoid_20_cost_16",
    "acceleration_sinusoid_40",
    "acceleration_omniglot_10",
    "acceleration_omniglot_20",
)
TABLES: dict[str, Callable[[], str]] = {
    **{name: partial(study, name) for name in STUDIES},
    **{f"{name}_pairs": partial(pairs, name) for name in STUDIES if name.startswith("halting")},
    **{f"{name}_p99": partial(shorter, name) for name in STUDIES if name.startswith("accel")},
    "lengths_sinusoid": partial(
        lengths, "halting_sinusoid", ("adaptive_k_free", "adaptive_k", "adaptive_k_rates")
    ),
    "lengths_acceleration": partial(
        lengths,
        "acceleration_sinusoid_20",
        (
            "gd",
            "gd_rates_parameter",
            "gd_rates_tensor_step",
            "meta_curvature_rates",
            "meta_curvature_rates_tensor_step",
        ),
    ),
    "lengths_acceleration_omniglot": partial(
        lengths,
        "acceleration_omniglot_10",
        ("gd", "gd_rates_tensor_step", "meta_curvature_rates", "meta_curvature_rates_tensor_step"),
    ),
    "lengths_acceleration_omniglot_20": partial(
        lengths,
        "acceleration_omniglot_20",
        ("gd_rates_tensor_step", "meta_curvature_rates_tensor_step"),
    ),
    **{f"length_caps_{task}": partial(length_caps, task) for task in ("sinusoid", "omniglot")},
    **{
        table.__name__: table
        for table in (
            sinusoid_paper,
            sinusoid_seeds,
            sinusoid_default,
            benchmark_sinusoid,
            benchmark_inner_steps,
            algorithms,
            known_lengths,
            rates,
            halted_early,
            length_rates,
            step_sizes,
            prices,
            images,
            benchmark_convolution,
            benchmark_resnet12,
        )
    },
}


def fill(text: str) -> str:
    """The text with every table between its markers made anew."""

    def table(match: re.Match[str]) -> str:
        try:
            content = TABLES[match[1]]()
        except UsageError:
            content = "Not measured yet."
        return f"<!-- table: {match[1]} -->\n{content}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def main(_: list[str]) -> None:
    """Rewrites the tables of `PAGES`."""
    for page in PAGES:
        page.write_text(fill(page.read_text()))


if __name__ == "__main__":
    app.run(main)
