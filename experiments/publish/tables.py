"""Writes the tables of the READMEs and of docs/ from the results that the repository keeps.

python -m experiments.publish.tables
"""

import pathlib
import re
from collections.abc import Callable
from functools import partial

from absl import app

from experiments.publish import (
    benchmark_tables,
    config_tables,
    device_tables,
    ledger_tables,
    length_tables,
    model_tables,
    reinforcement_tables,
    report_tables,
    reproduction_tables,
    results,
    study_tables,
)
from maml_jax.errors import UsageError

ROOT = pathlib.Path(__file__).parent.parent.parent
PAGES = (
    ROOT / "README.md",
    ROOT / "docs" / "algorithms.md",
    ROOT / "docs" / "configuration.md",
    ROOT / "docs" / "inner_optimizers.md",
    ROOT / "docs" / "learned_lengths.md",
    ROOT / "docs" / "reinforcement_learning.md",
    ROOT / "docs" / "ledger.md",
    ROOT / "docs" / "report.md",
    ROOT / "docs" / "results.md",
    ROOT / "docs" / "sweeps.md",
    results.RESULTS.parent / "device" / "README.md",
    ROOT / "docs" / "using_models.md",
    results.RESULTS / "README.md",
)
STUDIES = (
    "equal_compute_sinusoid",
    "equal_compute_omniglot",
    "acceleration_sinusoid_20",
    "acceleration_sinusoid_20_seeds_601",
    "acceleration_sinusoid_20_cost_4",
    "acceleration_sinusoid_20_cost_16",
    "acceleration_sinusoid_40",
    "acceleration_omniglot_10",
    "acceleration_omniglot_20",
)
LENGTHS = {  # table -> kept study, arms
    "lengths_sinusoid": (
        "equal_compute_sinusoid",
        ("adaptive_k_free", "adaptive_k", "adaptive_k_rates"),
    ),
    "lengths_acceleration": (
        "acceleration_sinusoid_20",
        (
            "gd",
            "gd_rates_parameter",
            "gd_rates_tensor_step",
            "meta_curvature_rates",
            "meta_curvature_rates_tensor_step",
        ),
    ),
    "lengths_acceleration_omniglot": (
        "acceleration_omniglot_10",
        ("gd", "gd_rates_tensor_step", "meta_curvature_rates", "meta_curvature_rates_tensor_step"),
    ),
    "lengths_acceleration_omniglot_20": (
        "acceleration_omniglot_20",
        ("gd_rates_tensor_step", "meta_curvature_rates_tensor_step"),
    ),
}
TABLES: dict[str, Callable[[], str]] = {
    **{name: partial(study_tables.study, name) for name in STUDIES},
    **{
        f"{name}_pairs": partial(study_tables.pairs, name)
        for name in STUDIES
        if name.startswith("equal_compute")
    },
    **{
        f"{name}_p99": partial(study_tables.shorter, name)
        for name in STUDIES
        if name.startswith("acceleration")
    },
    "step_costs": study_tables.step_costs,
    **{name: partial(length_tables.lengths, *of) for name, of in LENGTHS.items()},
    **{
        f"length_caps_{task}": partial(length_tables.length_caps, task)
        for task in ("sinusoid", "omniglot")
    },
    "length_step_sizes": length_tables.length_step_sizes,
    "step_sizes": length_tables.step_sizes,
    "sinusoid_paper": reproduction_tables.sinusoid_paper,
    "sinusoid_seeds": reproduction_tables.sinusoid_seeds,
    "sinusoid_default": reproduction_tables.sinusoid_default,
    "sinusoid_default_seeds": reproduction_tables.sinusoid_default_seeds,
    "algorithms": reproduction_tables.algorithms,
    "summary": reproduction_tables.summary,
    "ledger": ledger_tables.ledger,
    "ledger_recipes": ledger_tables.recipes,
    "ledger_not_run": ledger_tables.not_run,
    "ledger_ordering": ledger_tables.ordering,
    "ledger_layers": ledger_tables.layers,
    "models": model_tables.models,
    "report_sinusoid": partial(report_tables.equal_compute, "sinusoid"),
    "report_omniglot": partial(report_tables.equal_compute, "omniglot"),
    "report_accelerated": report_tables.accelerated,
    "arms": report_tables.arms,
    "configuration": config_tables.configuration,
    "inner_optimizers": config_tables.inner_optimizers,
    "known_lengths": benchmark_tables.known_lengths,
    "rates": benchmark_tables.rates,
    "halted_early": benchmark_tables.halted_early,
    "benchmark_sinusoid": benchmark_tables.benchmark_sinusoid,
    "benchmark_inner_steps": benchmark_tables.benchmark_inner_steps,
    "benchmark_convolution": benchmark_tables.benchmark_convolution,
    "benchmark_resnet12": benchmark_tables.benchmark_resnet12,
    "benchmark_schedules": benchmark_tables.benchmark_schedules,
    "benchmark_checkpoints": benchmark_tables.benchmark_checkpoints,
    "populations": device_tables.populations,
    "device_peers": device_tables.device_peers,
    "device_variants": device_tables.device_variants,
    "navigation": reinforcement_tables.navigation,
    "half_cheetah": reinforcement_tables.half_cheetah,
    "navigation_lengths": reinforcement_tables.lengths,
    "navigation_later_step_sizes": reinforcement_tables.later_step_sizes,
    "benchmark_environments": reinforcement_tables.benchmark_environments,
}


def fill(text: str) -> str:
    """The text with every table, and every number of a sentence, between its markers written anew.

    A table is `<!-- table: NAME -->` to `<!-- end -->`, a number `<!-- n: KIND ARGUMENTS -->` to
    `<!-- / -->` (see `experiments.publish.report_tables.number`), not at the beginning of a line,
    where Markdown would end the paragraph.
    """

    def table(match: re.Match[str]) -> str:
        try:
            content = TABLES[match[1]]()
        except UsageError:
            content = "Not measured yet."
        return f"<!-- table: {match[1]} -->\n{content}\n<!-- end -->"

    def in_sentence(match: re.Match[str]) -> str:
        return f"<!-- n: {match[1]} -->{report_tables.number(match[1])}<!-- / -->"

    text = re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)
    return re.sub(r"<!-- n: (.+?) -->[^<\n]*<!-- / -->", in_sentence, text)


def main(_: list[str]) -> None:
    """Rewrites the tables of `PAGES`."""
    for page in PAGES:
        page.write_text(fill(page.read_text()))


if __name__ == "__main__":
    app.run(main)
