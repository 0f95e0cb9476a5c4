"""The jobs for an accelerator, at a tiny size on the CPU."""

import json
import pathlib

import pytest

from experiments.device.workloads import BASE, CASES, plan
from experiments.publish import device_tables, results
from tests.run.runs import call_all


def test_the_benchmark_writes_rows_that_the_tables_read(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows in the first call, and what is left in the second."""
    tiny = ["device.benchmark", "--cases=tiny", "--rounds=1", f"--output={tmp_path}"]
    first, second = call_all([[*tiny, "--most=1"], [*tiny, "--most=2"]])
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    record = json.loads((tmp_path / "device_benchmark.json").read_text())
    variants = [row["variant"] for row in record["rows"] if "variant" in row]
    assert [of["members"] for of in variants] == [1, 4]
    assert {row["floor"] for row in record["rows"] if "floor" in row} == {"matmul", "launch"}
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    assert "| tiny |" in device_tables.device_peers()
    assert "| members 4 |" in device_tables.device_variants()


def test_the_plan_begins_with_the_defaults_and_has_no_variant_twice() -> None:
    cases = [name for name in CASES if name != "tiny"]
    variants = plan(cases)
    assert [of.case for of in variants[: len(cases)]] == cases
    assert variants[0] == BASE
    assert len(set(variants)) == len(variants)
    assert {of.chunk for of in variants} == {None, 1, 4}
    assert {of.members for of in variants} == {1, 4, 16}
