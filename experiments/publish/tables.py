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
    device_tables,
    length_tables,
    model_tables,
    reproduction_tables,
    results,
    study_tables,
)
from maml_jax.errors import UsageError

ROOT = pathlib.Path(__file__).parent.parent.parent
PAGES = (
    ROOT / "README.md",
    ROOT / "docs" / "algorithms.md",
    ROOT / "docs" / "learned_lengths.md",
    ROOT / "docs" / "results.md",
    ROOT / "docs" / "sweeps.md",
    results.RESULTS.parent / "device" / "README.md",
    ROOT / "docs" / "using_models.md",
    results.RESULTS / "README.md",
)
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
LENGTHS = {  # table -> kept study, arms
    "lengths_sinusoid": ("halting_sinusoid", ("adaptive_k_free", "adaptive_k", "adaptive_k_rates")),
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
        if name.startswith("halting")
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
    "length_rates": length_tables.length_rates,
    "step_sizes": length_tables.step_sizes,
    "sinusoid_paper": reproduction_tables.sinusoid_paper,
    "sinusoid_seeds": reproduction_tables.sinusoid_seeds,
    "sinusoid_default": reproduction_tables.sinusoid_default,
    "sinusoid_default_seeds": reproduction_tables.sinusoid_default_seeds,
    "algorithms": reproduction_tables.algorithms,
    "images": reproduction_tables.images,
    "summary": reproduction_tables.summary,
    "models": model_tables.models,
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
}


def fill(text: str) -> str:
    """The text with every table between its markers written anew."""

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
