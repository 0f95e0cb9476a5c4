"""Tables of learned lengths: their distribution, what long ones are worth, and their step sizes."""

import numpy as np

from experiments.publish import results
from experiments.publish.formats import markdown, with_origin
from experiments.publish.results import Record
from experiments.studies.comparisons import length_counts, paired_interval


def lengths(name: str, arms: tuple[str, ...]) -> str:
    """Learned lengths of arms of a kept study, tensor by tensor."""
    kept = results.read(name)["arms"]
    rows = []
    for arm in arms:
        for path, counts in length_counts(kept[arm]).items():
            of_all = np.repeat(range(len(counts)), counts)
            p99 = f"{np.percentile(of_all, 99):.1f}"
            shares = [f"{100 * counts[k] / counts.sum():.1f}%" for k in (0, -1)]
            cells = [f"{of_all.mean():.2f}", p99, str(of_all.max())]
            rows.append([arm, path, str(counts.sum()), *cells, *shares])
    head = ["arm", "tensor", "parameters, all seeds", "mean K", "p99", "max", "at 0", "at K_max"]
    return markdown(head, rows)


def length_caps(task: str) -> str:
    """Median loss or accuracy of trained runs with longer lengths cut, mean over seeds."""
    record = results.read(f"length_caps_{task}")
    on_sinusoid, rows = task == "sinusoid", []
    for arm, of in record["arms"].items():
        full, *cut = map(np.array, of.values())
        cells = [f"{full.mean():.4f}" if on_sinusoid else f"{full.mean():.1%}"]
        for mean, half_width in (paired_interval(values, full) for values in cut):
            cells.append(
                f"{mean:+.4f} ± {half_width:.4f} ({mean / full.mean():+.0%})"
                if on_sinusoid
                else f"{100 * mean:+.1f} ± {100 * half_width:.1f}"
            )
        rows.append([arm, *cells])
    labels = dict.fromkeys(label for of in record["arms"].values() for label in of)
    return with_origin(markdown(["arm", *labels], rows), record)


def length_step_sizes() -> str:
    """Mean step size and momentum of the parameters of every class of lengths."""
    record = results.read("length_step_sizes")

    def cell(row: Record) -> str:
        if not row["count"]:
            return ""
        momentum = f", μ {row['momentum']:.2f}" if "momentum" in row else ""
        return f"{row['count']}: {row['step_size']:.4f}{momentum}"

    tensors = [
        (arm, path, of) for arm, every in record["arms"].items() for path, of in every.items()
    ]
    rows = [[arm, path, *map(cell, of)] for arm, path, of in tensors]
    ends = [row["lengths"] for row in tensors[0][2]]
    head = [f"K {low} to {high}" if high else f"K {low} and more" for low, high in ends]
    return with_origin(markdown(["arm", "tensor", *head], rows), record)


def step_sizes() -> str:
    """For arms with a step size for every step: its mean over the parameters that take the step."""
    record = results.read("length_step_sizes")
    most = max(len(row["step_size"]) for of in record["steps"].values() for row in of.values())
    rows = []
    for arm, of in record["steps"].items():
        for path, row in of.items():
            pairs = zip(row["count"], row["step_size"], strict=True)
            cells = [f"{count}: {size:.3f}" for count, size in pairs]
            rows.append([arm, path, *cells, *[""] * (most - len(cells))])
    head = ["arm", "tensor", *(f"step {k + 1}" for k in range(most))]
    return with_origin(markdown(head, rows), record)
