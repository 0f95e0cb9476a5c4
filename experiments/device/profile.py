"""Which kernels take the time of a meta-step: a profile of one variant of the device benchmark.

python -m experiments.device.profile --output=device_profile --case=omniglot_5w1s
python -m experiments.device.profile --output=/tmp/try --case=tiny

OUTPUT/device_profile.json lists the kernels by their total time, and says how much of the time the
device was busy.
"""

import dataclasses
import pathlib
import time
from collections import Counter

import jax
from absl import flags

from experiments import cli
from experiments.device.workloads import BASE, CASES, PRECISIONS, make_run
from maml_jax.errors import UsageError
from maml_jax.run import files, provenance
from maml_jax.run.files import Record

NAME = "device_profile"
_SHOWN = 25  # kernels that the record lists
_OUTPUT = flags.DEFINE_string("output", NAME, "folder of the trace and of the record")
_CASE = flags.DEFINE_enum("case", BASE.case, list(CASES), "what is profiled")
_CONVOLUTION = flags.DEFINE_string("convolution", BASE.convolution, "im2col or lax")
_BATCHING = flags.DEFINE_string("batching", BASE.batching, "vmap, scan or the tasks of a chunk")
_PRECISION = flags.DEFINE_enum("precision", BASE.precision, list(PRECISIONS), "of products")
_MEMBERS = flags.DEFINE_integer("members", 1, "P", lower_bound=1)


def kernels(folder: pathlib.Path) -> tuple[Counter[str], Counter[str]]:
    """Nanoseconds and launches of every kernel of a trace; on a CPU of every operation."""
    traces = sorted(folder.rglob("*.xplane.pb"))
    if not traces:
        raise UsageError(f"{folder} holds no trace; JAX wrote none on this machine")
    nanoseconds, launches = Counter[str](), Counter[str]()
    profile = jax.profiler.ProfileData.from_file(str(traces[-1]))
    planes = list(profile.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")] or planes
    for plane in devices:
        for line in plane.lines:
            if plane.name.startswith("/device:") and not line.name.startswith("Stream"):
                continue
            for event in line.events:
                if event.name.startswith("$"):  # a Python function
                    continue
                nanoseconds[event.name] += round(event.duration_ns)
                launches[event.name] += 1
    return nanoseconds, launches


def main(_: list[str]) -> None:
    """Profiles one call after a warm-up, and writes the record."""
    folder = files.local_folder(_OUTPUT.value)
    variant = dataclasses.replace(
        BASE,
        case=_CASE.value,
        convolution=_CONVOLUTION.value,
        batching=_BATCHING.value,
        precision=_PRECISION.value,
        members=_MEMBERS.value,
    )
    with jax.default_matmul_precision(PRECISIONS[variant.precision]):
        run = make_run(variant)
        run()
        with jax.profiler.trace(str(folder / "trace")):
            started = time.perf_counter()
            run()
            seconds = time.perf_counter() - started
    nanoseconds, launches = kernels(folder / "trace")
    record: Record = {
        **provenance.describe(),
        "variant": dataclasses.asdict(variant),
        "seconds": seconds,
        "busy_share": 1e-9 * sum(nanoseconds.values()) / seconds,
        "launches_per_meta_step": sum(launches.values()) / variant.dispatch,
        "kernels": [
            {
                "name": name[:200],
                "microseconds_per_meta_step": 1e-3 * of / variant.dispatch,
                "launches_per_meta_step": launches[name] / variant.dispatch,
            }
            for name, of in nanoseconds.most_common(_SHOWN)
        ],
    }
    files.write(folder / f"{NAME}.json", files.dumps(record, indent=1) + "\n")
    for kernel in record["kernels"]:
        print(kernel)
    print(f"{folder / NAME}.json")


if __name__ == "__main__":
    cli.run(main)
