"""The jobs for an accelerator, at a tiny size on the CPU."""

import dataclasses
import json
import pathlib

import pytest

from experiments.device.workloads import BASE, CASES, plan
from experiments.publish import device_tables, results
from tests.run.runs import call_all


def row(milliseconds: float, **changes: object) -> dict[str, object]:
    variant = dataclasses.asdict(dataclasses.replace(BASE, **changes))  # type: ignore[arg-type]
    return {"variant": variant, "milliseconds_per_meta_step": milliseconds}


def test_tables_are_made_of_the_rows_of_a_record(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = {"variant": row(0.0, convolution="lax")["variant"], "failed": "no memory"}
    peer = {"peers": BASE.case, "label": "torch.func, vmap", "milliseconds": 25.0}
    both = [peer | {"precision": "float32"}, peer | {"precision": "tf32", "milliseconds": 20.0}]
    rows = [row(2.0), row(8.0, members=16), failed, {"floor": "launch"}, *both]
    rows.append(row(1.0, precision="tf32"))
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    results.write("device_benchmark", {"rows": rows, "hardware": "a card", "command": "job"})
    peers = device_tables.device_peers().splitlines()
    assert peers[2:4] == [
        "| omniglot_5w1s | float32 | 2.000 | 0.500 | 12.50 |",
        "| omniglot_5w1s | tf32 | 1.000 |  | 20.00 |",
    ]
    assert peers[-1] == "a card; `job`."
    variants = device_tables.device_variants().splitlines()[2:5]
    assert variants == [
        "| default | 1.00 |",
        "| members 16 | 0.25 |",
        "| convolution lax | failed |",
    ]


@pytest.mark.slow
def test_the_benchmark_goes_on_with_what_is_left(tmp_path: pathlib.Path) -> None:
    tiny = ["device.benchmark", "--cases=tiny", "--rounds=1", f"--output={tmp_path}"]
    first, second = call_all([[*tiny, "--most=1"], [*tiny, "--most=2"]])
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    record = json.loads((tmp_path / "device_benchmark.json").read_text())
    variants = [row["variant"] for row in record["rows"] if "variant" in row]
    assert [of["precision"] for of in variants] == ["float32", "tf32"]
    assert {row["floor"] for row in record["rows"] if "floor" in row} == {"matmul", "launch"}


def test_the_plan_begins_with_the_defaults_and_has_no_variant_twice() -> None:
    cases = [name for name in CASES if name != "tiny"]
    variants = plan(cases)
    assert [of.case for of in variants[: len(cases)]] == cases
    assert variants[0] == BASE
    assert len(set(variants)) == len(variants)
    assert {of.chunk for of in variants} == {None, 1, 4}
    assert {of.members for of in variants} == {1, 4, 16}
