"""Tables of reinforcement learning: returns beside the published ones."""

import numpy as np

from experiments.publish import results
from experiments.publish.formats import markdown, with_origin
from experiments.publish.results import Record
from experiments.studies.comparisons import paired_interval
from maml_jax.rl.published import PUBLISHED, SOURCE
from maml_jax.run.comparison import over_seeds
from maml_jax.run.formats import interval

UPDATES = range(4)
_HEAD = ["before", "1 update", "2 updates", "3 updates"]
NAVIGATION = {  # kept result -> what it is
    "navigation_step_size_01": "Adam",
    "navigation_seeds": "Adam",
    "navigation_log_std_12": "Adam, first log(std) -1.2",
    "navigation_log_std_17": "Adam, first log(std) -1.7",
    "navigation_three_updates": "Adam, trained with 3 updates",
    "navigation_lengths": "Adam, trained with 3 updates and learned lengths",
    "navigation": "Adam, step size 0.5",
    "navigation_cosine": "Adam, step size 0.5, cosine from 2e-3",
    "navigation_dice": "Adam, step size 0.5, `dice`, first log(std) 0",
    "navigation_trpo_seeds": "TRPO, 5 conjugate-gradient steps",
    "navigation_trpo": "TRPO, step size 0.5, 5 conjugate-gradient steps",
}
HALF_CHEETAH = "half_cheetah_direction"
FIXED = "navigation_three_updates_later_step_sizes"
LENGTHS = "navigation_lengths_later_step_sizes"
LATER_STEP_SIZES = {
    "navigation_seeds_later_step_sizes": "Adam, 3 seeds",
    "navigation_later_step_sizes": "Adam, step size 0.5",
    "navigation_trpo_seeds_later_step_sizes": "TRPO, 3 seeds",
    "navigation_trpo_later_step_sizes": "TRPO, step size 0.5",
}


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


def navigation() -> str:
    """Runs against updates, and below them the published ones."""
    return returns("navigation", NAVIGATION)


def half_cheetah() -> str:
    """The half-cheetah that runs forward or backward."""
    table = returns(HALF_CHEETAH, {HALF_CHEETAH: "TRPO, 10 tasks a meta-step"})
    return with_origin(table, results.read(HALF_CHEETAH))


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
            of_run = label if run == kept["config"]["algorithm"] else f"{label}: {run}"
            numbers = [str(len(records)), f"{records[0]['meta_step']:,}"]
            rows.append([of_run, *numbers, *_returns(records)])
    for run in PUBLISHED[environment]:
        rows.append([f"{run}, {SOURCE}", "", "", *_published(environment, run)])
    return markdown(["run", "seeds", "meta-steps", *_HEAD], rows)


def later_step_sizes() -> str:
    """Trained policies, with several factors of the step sizes after the first update."""
    rows = []
    for name, label in LATER_STEP_SIZES.items():
        evaluations = results.read(name)["evaluations"]
        for factor in dict.fromkeys(of["later_step_sizes"] for of in evaluations):
            records = [of for of in evaluations if of["later_step_sizes"] == factor]
            rows.append([label, f"{factor:g}", *_returns(records)])
    return markdown(["run", "factor", *_HEAD], rows)


def _by_update(values: np.ndarray, baseline: np.ndarray | float) -> list[tuple[float, float]]:
    """Mean difference after every update with its interval over seeds; values: [seeds, updates]."""
    columns = (values - baseline).T
    return [paired_interval(column, 0.0) for column in columns]


def lengths() -> str:
    """Learned lengths against a fixed K of as many rollouts, paired by seed."""
    kept = {"fixed K = 3": results.read(FIXED), "learned lengths": results.read(LENGTHS)}
    rows = []
    for factor in dict.fromkeys(
        of["later_step_sizes"] for of in kept["fixed K = 3"]["evaluations"]
    ):
        by_label = {}
        for label, record in kept.items():
            same = [of for of in record["evaluations"] if of["later_step_sizes"] == factor]
            by_label[label] = np.array([of["return"] for of in same])
        differences = _by_update(by_label["learned lengths"], by_label["fixed K = 3"])
        of_labels = {label: _by_update(of, 0.0) for label, of in by_label.items()}
        for label, cells in {**of_labels, "difference": differences}.items():
            rows.append([f"{factor:g}", label, *(interval(*cells[k]) for k in UPDATES)])
    return markdown(["factor", "", *_HEAD], rows)


def benchmark_environments() -> str:
    """Speed of rollouts."""
    record = results.read("benchmark_environments")
    rows = [
        [
            name,
            f"{of['rollouts']:,}",
            f"{of['steps_per_second']:,.0f}",
            f"{of['steps_per_cpu_second']:,.0f}",
            f"{of['compile_cpu_seconds']:.0f}",
        ]
        for name, of in record["environments"].items()
    ]
    head = [
        "environment",
        "rollouts at once",
        "steps/s",
        "steps per CPU second",
        "compiling, CPU s",
    ]
    return with_origin(markdown(head, rows), record)
