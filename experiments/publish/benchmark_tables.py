"""Tables of the benchmarks: speed, memory, and methods on quadratics."""

from collections import defaultdict

import numpy as np

from experiments.publish import results
from experiments.publish.formats import DIVERGED, LARGEST, markdown, with_origin
from experiments.publish.results import Record


def benchmark_sinusoid() -> str:
    """Meta-steps per second of the three ways to run the sinusoid."""
    record = results.read("benchmark_sinusoid")
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
    return with_origin(markdown(head, rows), record)


def benchmark_inner_steps() -> str:
    """Time and temporary memory of the meta-gradient against K."""
    by_steps: dict[int, dict[str, Record]] = defaultdict(dict)
    for row in results.read("benchmark_sinusoid")["against_inner_steps"]:
        by_steps[row["num_steps"]][row["meta_gradient"]] = row
    rows = []
    for number, kinds in by_steps.items():
        cells = [
            f"{kinds[kind][name]:.2f}"
            for name in ("milliseconds", "temporary_megabytes")
            for kind in ("exact", "reverse")
        ]
        rows.append([str(number), *cells])
    return markdown(["K", "exact, ms", "reverse, ms", "exact, MB", "reverse, MB"], rows)


def benchmark_convolution() -> str:
    """Time of a meta-gradient by convolution and batching, beside the peers and the floor."""
    record = results.read("benchmark_conv4")
    workloads = record["workloads"]
    labels = list(dict.fromkeys(label for w in workloads.values() for label in w["milliseconds"]))

    def cell(workload: Record, label: str) -> str:
        if label not in workload["milliseconds"]:
            return ""
        return f"{workload['milliseconds'][label]:,.0f} ({workload['over_best'][label]:.2f})"

    rows = [[label, *(cell(of, label) for of in workloads.values())] for label in labels]
    floors = [f"{w['floor_milliseconds']:,.0f}" for w in workloads.values()]
    ratios = [f"{w['over_floor'][w['best']]:.2f}" for w in workloads.values()]
    rows += [["floor: its matrix products alone", *floors], ["best over floor", *ratios]]
    head = ["ms a meta-gradient (relative to the best)", *workloads]
    return with_origin(markdown(head, rows), record)


def benchmark_resnet12() -> str:
    """Time and temporary memory of one task's meta-gradient of ResNet-12."""
    record = results.read("benchmark_resnet12")
    rows = [
        [
            str(row["num_steps"]),
            f"`{row['meta_gradient']}`",
            f"{np.median(row['seconds']):.1f}",
            f"{row['temporary_megabytes'] / 1e3:.1f}",
        ]
        for row in record["resnet12"]
    ]
    head = ["K", "meta-gradient", "seconds", "temporary memory, GB"]
    return with_origin(markdown(head, rows), record)


def milliseconds(row: Record, tasks: int) -> float:
    """Of adapting to so many tasks: the median over rounds."""
    return float(np.median(row[f"milliseconds_{tasks}"]))


def benchmark_schedules() -> str:
    """Time of adapting to test tasks with masked, compiled and pruned inner loops."""
    record = results.read("benchmark_schedules")
    tasks, base = record["tasks"], next(iter(record["rows"]))
    rows = [
        [
            label,
            f"{milliseconds(row, 1):.1f}",
            f"{milliseconds(row, tasks):,.0f}",
            f"{100 * np.median(of):,.0f}" if (of := row.get("seconds_10_meta_steps")) else "",
            f"{np.mean(row['compute']) / 1e6:,.0f}",
            f"{100 * np.mean(row['accuracy']):.2f} ± {100 * row['accuracy_ci95']:.2f}",
            ", ".join(f"{100 * of:.1f}" for of in row["accuracy"]),
            f"{100 * np.mean(row['difference']):+.2f} ± {100 * row['difference_ci95']:.2f}"
            if label != base
            else "",
        ]
        for label, row in record["rows"].items()
    ]
    head = ["run", "1 task, ms", f"{tasks} tasks, ms", "meta-step, ms", "C, MFLOP a task"]
    head += ["accuracy, %", "of each seed", f"difference to {base}"]
    text = (
        f"Every seed is tested on {record['episodes']:,} tasks. Times are medians of the first "
        "seed; C and accuracies are means over seeds, with intervals over tasks."
    )
    return with_origin(f"{markdown(head, rows)}\n\n{text}", record)


def benchmark_checkpoints() -> str:
    """Time and temporary memory of a meta-gradient of 8 Omniglot tasks against K."""
    record = results.read("benchmark_checkpoints")
    rows = [
        [
            str(row["num_steps"]),
            row["kind"],
            f"{np.median(row['milliseconds']):,.0f}" if "milliseconds" in row else "",
            f"{row['temporary_megabytes']:,.0f}",
        ]
        for row in record["rows"]
    ]
    head = ["K", "meta-gradient", "ms", "temporary memory, MB"]
    return with_origin(markdown(head, rows), record)


def _error(of: float) -> str:
    """An error relative to that at the start, or that it has grown."""
    return f"{of:.1e}" if of < LARGEST else DIVERGED


def rates() -> str:
    """Last error of every method on the quadratics, and how often it restarted."""
    record = results.read("quadratics")
    errors, restarts = record["errors"], record["restarts"]

    def cell(condition: str, method: str) -> str:
        number = restarts[condition].get(method)
        text = "" if number is None else f" ({number} restart{'s' * (number != 1)})"
        return f"{_error(errors[condition][method][-1])}{text}"

    rows = [
        [method, *(cell(of, method) for of in errors)] for method in next(iter(errors.values()))
    ]
    head = ["method", *(f"condition {condition}" for condition in errors)]
    return with_origin(markdown(head, rows), record)


def halted_early() -> str:
    """Loss of a coordinate that halts before the T that a method is made for.

    In brackets that of a method which is made for the step at which it halts.
    """
    record = results.read("quadratics")["halted_early"]
    rows = [
        [condition, method, *(f"{loss:.1e} ({made:.1e})" for loss, made in losses)]
        for condition, methods in record["losses"].items()
        for method, losses in methods.items()
    ]
    steps = [f"{halted} of {record['num_steps']} steps" for halted in record["halted"]]
    return markdown(["condition", "method", *steps], rows)


def known_lengths() -> str:
    """Learned lengths against the best ones of quadratics."""
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
        for run in results.read("known_lengths")["runs"]
    ]
    head = ["gate", "first length", "cost", "within 1 step of the best K", "mean error"]
    return markdown([*head, "largest gap of a loss", "mean K (best)"], rows)
