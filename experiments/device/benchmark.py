"""Speed of meta-training on the accelerator of this machine, beside its floors and the peers.

python -m experiments.device.benchmark --output=device_benchmark
python -m experiments.device.benchmark --output=/tmp/try --cases=tiny --rounds=1 --minutes=2

Measures what is not yet in OUTPUT, the most important first, until the minutes have passed; the
same command goes on. Each row is whole meta-steps: drawing the tasks, the meta-gradient and the
update. `peers` are PyTorch's libraries on the same card, which compute the meta-gradient alone.
Floors: the matrix products at the rate of one large product, and the launches of the kernels.
OUTPUT/device_benchmark.json is what experiments/results keeps.
"""

import dataclasses
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
from absl import flags

from experiments import cli
from experiments.benchmarks import torch_peers
from experiments.benchmarks.workloads import WAYS, make_episodes
from experiments.device.workloads import CASES, FLAGS, PRECISIONS, Variant, make_run, plan
from maml_jax.errors import UsageError, first_line
from maml_jax.models.conv4 import Conv4
from maml_jax.run import files, provenance
from maml_jax.run.files import Record
from maml_jax.types import Array

NAME = "device_benchmark"
PEERS = "peers"  # the process that measures PyTorch
_LAUNCHES = 1_000  # of the kernels whose launch is timed
_MATMUL = 8192  # on an accelerator; 1024 on a CPU
_OUTPUT = flags.DEFINE_string("output", NAME, "folder of the rows and of the record")
_CASES = flags.DEFINE_list("cases", [name for name in CASES if name != "tiny"], "names of cases")
_MINUTES = flags.DEFINE_float("minutes", 7.5, "no row is begun after so many")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "timed calls of a row", lower_bound=1)
_MOST = flags.DEFINE_integer("most", None, "rows at most; default: all")
_PART = flags.DEFINE_string(
    "part", None, "peers, or a name of XLA flags: what a process of its own measures"
)
_ENDS = flags.DEFINE_float("ends", 0.0, "time() at which a process of its own has to end")


def _rows(folder: pathlib.Path) -> list[Record]:
    """What is measured so far."""
    lines = (files.read(folder / "rows.jsonl") or "").splitlines()
    return [json.loads(line) for line in lines]


def _append(folder: pathlib.Path, row: Record) -> None:
    with (folder / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(row, flush=True)


def _left(folder: pathlib.Path) -> list[Variant]:
    done = [row["variant"] for row in _rows(folder) if "variant" in row]
    return [of for of in plan(_CASES.value)[: _MOST.value] if dataclasses.asdict(of) not in done]


def _seconds(run: Callable[[], object]) -> list[float]:
    """Of each round, after a warm-up."""
    run()
    seconds = []
    for _ in range(_ROUNDS.value):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return seconds


def _measure(variant: Variant) -> Record:
    started = time.perf_counter()
    try:
        with jax.default_matmul_precision(PRECISIONS[variant.precision]):
            seconds = _seconds(make_run(variant))
    except (jax.errors.JaxRuntimeError, FloatingPointError, NotImplementedError) as error:
        return {"variant": dataclasses.asdict(variant), "failed": first_line(error)[:200]}
    milliseconds = 1e3 * statistics.median(seconds) / variant.dispatch
    return {
        "variant": dataclasses.asdict(variant),
        "milliseconds_per_meta_step": milliseconds,
        "seconds": seconds,
        "with_compilation": time.perf_counter() - started,
    }


def _wait(fn: Callable[[Array], Array], array: Array) -> None:
    jax.block_until_ready(fn(array))


def _floors() -> Iterator[Record]:
    """Rate of one large matrix product by precision, and the time of one small kernel in a loop."""
    size = _MATMUL if jax.default_backend() != "cpu" else 1024
    matrix = jnp.ones((size, size))
    for name, precision in PRECISIONS.items():
        with jax.default_matmul_precision(precision):
            product = jax.jit(lambda a: a @ a)
            seconds = statistics.median(_seconds(partial(_wait, product, matrix)))
        yield {"floor": "matmul", "precision": name, "gigaflops": 2e-9 * size**3 / seconds}
    small = jnp.ones((32, 32))
    loop = jax.jit(lambda a: jax.lax.fori_loop(0, _LAUNCHES, lambda _, x: x @ a, a))
    seconds = statistics.median(_seconds(partial(_wait, loop, small)))
    yield {"floor": "launch", "microseconds": 1e6 * seconds / _LAUNCHES}


def _peers(name: str) -> Iterator[Record]:
    """Meta-gradients of PyTorch's libraries on the card that PyTorch finds."""
    installed, missing = torch_peers.available(len(os.sched_getaffinity(0)))
    yield {"peers": name, "missing": missing, "versions": installed}
    if "torch" not in installed or CASES[name].ways != WAYS:
        return
    import torch  # the versions say that it is there

    device = "cuda" if torch.cuda.is_available() else "cpu"
    workload = CASES[name].workload
    key = jax.random.key(0)
    episodes = make_episodes(workload, key)
    model = Conv4(WAYS, workload.filters, workload.max_pool)
    init = model.init(key, episodes.support.inputs[0])["params"]
    torch.set_default_device(device)
    peers = torch_peers.make_peers(
        init,
        episodes,
        steps=workload.steps,
        step_size=workload.step_size,
        max_pool=workload.max_pool,
        installed=installed,
    )
    for precision in PRECISIONS if device == "cuda" else ("float32",):
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        for label, run in peers.items():
            row: Record = {"peers": name, "label": label, "precision": precision}
            try:
                seconds = _seconds(run)
            except RuntimeError as error:
                yield row | {"failed": first_line(error)[:200]}
                continue
            yield row | {"device": device, "milliseconds": 1e3 * statistics.median(seconds)}


def measure_peers(folder: pathlib.Path, ends: float) -> None:
    """Measures what PyTorch takes in the cases that have no row of it."""
    measured = {row["peers"] for row in _rows(folder) if "peers" in row}
    for name in [of for of in _CASES.value if of not in measured]:
        for row in _peers(name) if time.time() < ends else ():
            _append(folder, row)


def measure_part(part: str, folder: pathlib.Path, ends: float) -> None:
    """Measures the next variants, as far as they have these XLA flags, until the time is over."""
    if not any("floor" in row for row in _rows(folder)):
        for row in _floors():
            _append(folder, row | {"device": jax.devices()[0].device_kind})
    for variant in itertools.takewhile(lambda of: of.flags == part, _left(folder)):
        if time.time() > ends:
            return
        _append(folder, _measure(variant))


def _in_processes(folder: pathlib.Path, ends: float) -> None:
    """One process for the peers, and one for each set of flags."""
    command = [sys.executable, "-m", "experiments.device.benchmark", *sys.argv[1:]]

    def call(part: str, environment: dict[str, str]) -> int:
        arguments = [*command, f"--part={part}", f"--ends={ends}"]
        return subprocess.run(arguments, env=os.environ | environment, check=False).returncode

    call(PEERS, {"JAX_PLATFORMS": "cpu"})
    while (left := _left(folder)) and time.time() < ends:
        part = left[0].flags
        flags_of_xla = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS[part]}".strip()
        if code := call(part, {"XLA_FLAGS": flags_of_xla}):
            failed = f"its process ended with code {code}"
            _append(folder, {"variant": dataclasses.asdict(_left(folder)[0]), "failed": failed})


def main(_: list[str]) -> None:
    """Measures what is left, and writes the record."""
    if unknown := set(_CASES.value) - set(CASES):
        raise UsageError(f"--cases={','.join(sorted(unknown))} is unknown; use {', '.join(CASES)}")
    folder = files.local_folder(_OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    if _PART.value is not None:
        if _PART.value == PEERS:
            measure_peers(folder, _ENDS.value)
        else:
            measure_part(_PART.value, folder, _ENDS.value)
        return
    _in_processes(folder, time.time() + 60 * _MINUTES.value)
    record = {**provenance.describe(), "rows": _rows(folder), "left": len(_left(folder))}
    path = folder / f"{NAME}.json"
    files.write(path, files.dumps(record, indent=1) + "\n")
    print(f"{path}: {len(record['rows'])} rows, {record['left']} left")


if __name__ == "__main__":
    cli.run(main)
