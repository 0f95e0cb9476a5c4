"""The findings of sparse-MAML: the order of the algorithms, and which layers adapt."""

import pathlib

import pytest

from experiments.ledger import records
from experiments.ledger.rows import ROWS
from experiments.publish import ledger_tables, masks, results
from maml_jax.errors import UsageError


def test_the_share_of_each_layer_that_adapts(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    with pytest.raises(UsageError, match="was not run"):
        masks.kept(masks.ROW)
    runs = [
        {
            "seed": seed,
            "length_counts": {
                "conv_0/kernel": [9 - seed, 0, 1 + seed],
                "conv_3/kernel": [50, 0, 50],
                "head/bias": [5, 0, 0],
                "head/kernel": [0, 0, 40],
            },
        }
        for seed in range(2)
    ]
    records.add(masks.ROW, ROWS[masks.ROW], runs)
    layers = masks.shares(masks.kept(masks.ROW))
    assert {name: of.tolist() for name, of in layers.items()} == {
        "conv 1": pytest.approx([0.1, 0.2]),
        "conv 4": [0.5, 0.5],
        "last layer": [1.0, 1.0],
    }
    assert "| conv 4 | 50.00 ± 0.00 |" in ledger_tables.layers()
    axes = masks.draw(layers).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == [*layers]
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([15, 50, 100])
    assert max(of for line in axes.lines for of in line.get_ydata()) == 100


def test_algorithms_are_compared_seed_by_seed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    with pytest.raises(UsageError, match="too few seeds"):
        ledger_tables.ordering()
    for prefix, gain in {
        "sparse-baseline": 0.0,
        "sparse-relu-maml": 0.02,
        "sparse-maml": 0.03,
    }.items():
        name = f"{prefix}-cifar-fs-5way-5shot-cpu"
        runs = [
            {
                "seed": seed,
                "accuracy": [0.2, 0.6 + 0.01 * seed + gain],
                "accuracy_ci95": [0.0, 0.01],
            }
            for seed in range(2 + (gain > 0))
        ]
        records.add(name, ROWS[name], runs)
    *_, relu, sparse = ledger_tables.ordering().splitlines()
    assert relu.startswith("| sparse-ReLU-MAML")
    assert relu.endswith("| 2.00 ± 0.00 |")
    assert sparse.endswith("| 63.50 ± 6.35 | 3.00 ± 0.00 |")  # t(0.975, 1) · 0.5
