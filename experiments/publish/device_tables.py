"""Tables of populations on a CPU, and of the device benchmark on an accelerator."""

from collections.abc import Sequence

from experiments.publish import results
from experiments.publish.formats import markdown, with_origin
from experiments.publish.results import Record

_BASE = {
    "convolution": "im2col",
    "batching": "vmap",
    "precision": "float32",
    "flags": "default",
    "members": 1,
    "dispatch": 100,
}


def populations() -> str:
    """Time of several seeds, in times of a single run."""
    record = results.read("population_speed")
    rows = [
        [
            row["case"].replace("_", " "),
            f"{row['meta_steps']:,}",
            f"{row['single_seconds']:.0f} s",
            f"{row['population_seconds']:.0f} s",
            f"{row['ratio']:.2f}",
        ]
        for row in record["rows"]
    ]
    head = ["run", "meta-steps", "one seed", f"{record['rows'][0]['seeds']} seeds", "ratio"]
    return with_origin(markdown(head, rows), record)


def _named(case: str, **changes: object) -> Record:
    return {"case": case, **_BASE, **changes}


def _milliseconds(rows: Sequence[Record], variant: Record) -> float | None:
    """Of a meta-step of one member."""
    for row in rows:
        if row.get("variant") == variant and "milliseconds_per_meta_step" in row:
            milliseconds: float = row["milliseconds_per_meta_step"] / variant["members"]
            return milliseconds
    return None


def _times(value: float | None, base: float | None) -> str:
    return "" if value is None or base is None else f"{value / base:.2f}"


def _cases(rows: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(row["variant"]["case"] for row in rows if "variant" in row))


def device_peers() -> str:
    """A meta-step of every case, and how many times as long PyTorch's libraries take."""
    record = results.read("device_benchmark")
    rows, lines = record["rows"], []
    peers = list(dict.fromkeys(row["label"] for row in rows if "label" in row))
    for case in _cases(rows):
        for precision in ("float32", "tf32"):
            base = _milliseconds(rows, _named(case, precision=precision))
            sixteen = _milliseconds(rows, _named(case, precision=precision, members=16))
            of_peers = {
                row["label"]: row.get("milliseconds")
                for row in rows
                if (row.get("peers"), row.get("precision")) == (case, precision)
            }
            if base is not None:
                each = "" if sixteen is None else f"{sixteen:.3f}"
                times = [_times(of_peers.get(label), base) for label in peers]
                lines.append([case, precision, f"{base:.3f}", each, *times])
    head = ["case", "precision", "ms a meta-step", "ms each of 16 members"]
    return with_origin(markdown([*head, *(f"{of}, times" for of in peers)], lines), record)


def device_variants() -> str:
    """Time of each variant, in times of the default, and variants that failed."""
    record = results.read("device_benchmark")
    rows = record["rows"]
    cases, lines = _cases(rows), dict[str, dict[str, str]]()
    for row in [of for of in rows if "variant" in of]:
        variant = row["variant"]
        changes = [
            f"{key} {of}" for key, of in variant.items() if key != "case" and of != _BASE[key]
        ]
        base = _milliseconds(rows, _named(variant["case"]))
        cell = "failed" if "failed" in row else _times(_milliseconds(rows, variant), base)
        lines.setdefault(", ".join(changes) or "default", {})[variant["case"]] = cell
    table = [[label, *(cells.get(case, "") for case in cases)] for label, cells in lines.items()]
    return with_origin(markdown(["variant, times the default", *cases], table), record)
