"""Tables of the kept studies: arms against their baseline, and against each other."""

import numpy as np

from experiments.publish import results
from experiments.publish.formats import LOSSES, against, fair_verdict, markdown, value
from experiments.publish.results import Record
from experiments.studies.comparisons import last, length_statistic, paired_interval

COSTS = {1: "", 4: "_cost_4", 16: "_cost_16"}  # relative cost of a step -> suffix of the result


def _compute_cell(runs: list[Record], baseline: float) -> str:
    """Mean C over seeds; in brackets relative to the baseline, with the range over seeds."""
    compute = last(runs, "inner_compute")
    relative = compute / baseline
    span = f"; {relative.min():.2f} to {relative.max():.2f}" if np.ptp(compute) else ""
    return f"{compute.mean() / 1e6:.4g} ({relative.mean():.2f}{span})"


def _length_cells(row: Record, k_max: int) -> list[str]:
    if "mean" not in row:
        return [str(k_max), str(k_max), "", "", "", ""]
    p99 = f"{row['p99']:.2f}"
    if any(row.get("p99_difference", ())):
        p99 += " ({:+.2f} ± {:.2f})".format(*row["p99_difference"])
    shown = [f"{row['mean']:.2f}", f"{row['p90']:.2f}", p99, f"{row['max']:.2f}"]
    return [str(k_max), *shown, f"{row['share_at_most']:.2%}"]


def _excess(compute: float, baseline: float) -> float:
    """C relative to the baseline; 1 if it is lower, because less for no worse is a gain."""
    return max(compute / baseline, 1.0)


def _measures(record: Record) -> dict[str, str]:
    """Measure -> its heading; the last one orders the arms."""
    return {"accuracy": "accuracy, %"} if record["measure"] == "accuracy" else LOSSES


def _measure_cells(record: Record, row: Record, baseline: Record, held: bool) -> list[str]:
    """Every measure, and its difference to the baseline."""
    accuracy = record["measure"] == "accuracy"
    relative = row["compute"] / baseline["compute"]
    relative = relative if held else _excess(row["compute"], baseline["compute"])
    cells = []
    for measure in _measures(record):
        of = row[measure]
        difference = against(of["difference"], of["half_width"], accuracy, relative)
        cells += [value(of["mean"], accuracy), "" if row is baseline else difference]
    return cells


def _study_row(record: Record, row: Record, baseline: Record, held: bool) -> list[str]:
    arm = record["arms"][row["arm"]]
    settings = arm["overrides"] | row["choice"]
    k_max = settings.get("inner.num_steps", record["config"]["inner"]["num_steps"])
    counts = [str(row[of]) for of in ("nonfinite", "nonfinite_training") if of in row]
    return [
        row["arm"],
        *_measure_cells(record, row, baseline, held),
        _compute_cell(arm["runs"], baseline["compute"]),
        *_length_cells(row, k_max),
        " / ".join(counts),
        ", ".join(f"{key}={chosen:g}" for key, chosen in row["choice"].items()),
    ]


def study(name: str) -> str:
    """Arms of a kept study: measures, differences to the baseline, compute and lengths."""
    record = results.read(name)
    measures, accuracy = _measures(record), record["measure"] == "accuracy"
    held = name.startswith("equal_compute")  # arms are held to the baseline's compute
    rows = {row["arm"]: row for row in record["rows"]}
    baseline = rows[record["reference"]]
    decisive = list(measures)[-1]
    ordered = sorted(rows.values(), key=lambda row: row[decisive]["mean"])
    body = [_study_row(record, row, baseline, held) for row in ordered]
    head = ["arm"]
    for text in measures.values():
        head += [text, f"against `{baseline['arm']}`"]
    head += ["C, MFLOP (relative; seeds)", "K_max", "mean K", "p90", "p99", "max", "at K_max"]
    head += ["not finite, test / training", "tuned"]
    return f"{markdown(head, body[::-1] if accuracy else body)}\n\n{_study_origin(record)}"


def _study_origin(record: Record) -> str:
    """Seeds, meta-steps, machines, time and commands; and the arms that diverged."""
    seeds = len(record["arms"][record["reference"]]["runs"])
    parts = (*record.get("extends", ()), record)
    runs = [run for arm in record["arms"].values() for run in arm["runs"]]
    machines = dict.fromkeys(of["hardware"] for of in (*parts, *runs) if "hardware" in of)
    commands = ", ".join(f"`{of['command']}`" for of in parts)
    compared = [row["arm"] for row in record["rows"]]
    diverged = ", ".join(f"`{arm}`" for arm in record["arms"] if arm not in compared)
    return (
        f"{seeds} seeds, {record['config']['num_meta_steps']:,} meta-steps; "
        f"{' and '.join(machines)}, "
        f"{record['run_seconds'] / 60:.0f} minutes of training and testing; {commands}."
        + (f" Diverged in every trial or in training: {diverged}." if diverged else "")
    )


def pairs(name: str) -> str:
    """Adaptive K against every other arm of a study at equal compute, paired by seed."""
    record = results.read(name)
    arms, accuracy = record["arms"], record["measure"] == "accuracy"
    compute = {row["arm"]: row["compute"] for row in record["rows"]}
    learned = [arm for arm in arms if arm.startswith("adaptive_k")]
    rows = []
    for other in (arm for arm in arms if arm not in learned):
        for measure, text in {"accuracy": "%"}.items() if accuracy else LOSSES.items():
            baseline, cells = last(arms[other]["runs"], measure), []
            for arm in learned:
                interval = paired_interval(last(arms[arm]["runs"], measure), baseline)
                cells.append(against(*interval, accuracy, compute[arm] / compute[other]))
            rows.append([other, text, *cells])
    return markdown(["against", "measure", *learned], rows)


def shorter(name: str) -> str:
    """Accelerated arms against each gradient descent: 99th percentile of K, and the measure.

    The last column is the optimizer's own matrix products in a full step, relative to those of the
    gradient. C includes them.
    """
    record = results.read(name)
    accuracy = record["measure"] == "accuracy"
    measure = "accuracy" if accuracy else "loss_median"
    runs = {arm: of["runs"] for arm, of in record["arms"].items() if of["runs"]}
    compute = {arm: last(of, "inner_compute").mean() for arm, of in runs.items()}
    p99 = {arm: length_statistic(of, "p99") for arm, of in runs.items()}
    descents = [arm for arm in runs if "inner.optimizer" not in record["arms"][arm]["overrides"]]

    def difference(arm: str, descent: str) -> str:
        values, baseline = (last(runs[of], measure) for of in (arm, descent))
        says = fair_verdict(
            *paired_interval(values, baseline), accuracy, _excess(compute[arm], compute[descent])
        )
        mean, half_width = paired_interval(p99[arm], p99[descent])
        return f"{mean:+.1f} ± {half_width:.1f}; {measure.split('_')[-1]} {says}"

    def products(arm: str) -> str:
        lengths, own = runs[arm][0]["lengths"], record["arms"][arm]["optimizer_flops"]
        full_steps = lengths["inner_compute"] / lengths["inner_compute_share"]
        step = full_steps / record["config"]["inner"]["num_steps"]
        return f"{own / (step - own):.0%}"

    others = sorted((arm for arm in runs if arm not in descents), key=lambda arm: p99[arm].mean())
    rows = [
        [arm, f"{p99[arm].mean():.1f}", *(difference(arm, of) for of in descents), products(arm)]
        for arm in others
    ]
    of_descents = [f"against `{arm}` (p99 {p99[arm].mean():.1f})" for arm in descents]
    return markdown(["arm", "p99 of K", *of_descents, "products of the optimizer"], rows)


def runs_by_cost() -> dict[str, dict[int, list[Record]]]:
    """Arm -> cost of a step -> runs, of the baseline and of arms trained at several costs."""
    studies = {
        cost: results.read(f"acceleration_sinusoid_20{suffix}") for cost, suffix in COSTS.items()
    }
    arms = {
        arm: {cost: of["arms"][arm]["runs"] for cost, of in studies.items() if arm in of["arms"]}
        for arm in studies[1]["arms"]
    }
    return {arm: of for arm, of in arms.items() if len(of) > 1 or arm == studies[1]["reference"]}


def step_costs() -> str:
    """Median loss and 99th percentile of K at each cost of a step, against the baseline at 1."""
    arms = runs_by_cost()
    baseline = arms[results.read("acceleration_sinusoid_20")["reference"]][1]

    def measure(runs: list[Record], name: str) -> np.ndarray:
        return last(runs, "loss_median") if name == "median" else length_statistic(runs, "p99")

    def cell(runs: list[Record], name: str, form: str) -> str:
        values = measure(runs, name)
        if runs is baseline:
            return f"{values.mean():{form}}"
        difference, half_width = paired_interval(values, measure(baseline, name))
        return f"{values.mean():{form}} ({difference:+{form}} ± {half_width:{form}})"

    rows = [
        [arm, name, *(cell(of[cost], name, form) if cost in of else "" for cost in COSTS)]
        for arm, of in arms.items()
        for name, form in {"median": ".4f", "p99 of K": ".1f"}.items()
    ]
    return markdown(["arm", "", *(f"relative cost {cost}" for cost in COSTS)], rows)
