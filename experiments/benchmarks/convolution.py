"""Speed of the meta-gradient of convolutional networks: convolution × batching over tasks.

python -m experiments.benchmarks.convolution
python -m experiments.benchmarks.convolution --mode=resnet12

Times whole meta-gradients (exact MAML, batch norm, float32) of three workloads in one process, in
the order A B C A B C ... They are compared with PyTorch's libraries, where these are installed, and
with the floor: the matrix products that the meta-gradient cannot do without, at the rate of one
large matrix product on the same machine. Mode resnet12 measures time and temporary memory of one
task's meta-gradient of ResNet-12 on 84×84 images. The results are kept in experiments/results/.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import flags

from experiments import cli
from experiments.benchmarks import torch_peers
from experiments.benchmarks.measuring import temporary_megabytes
from experiments.benchmarks.workloads import WAYS, Workload, flops, make_episodes
from experiments.publish import results
from experiments.publish.results import Record
from maml_jax import Episode, InnerLoop, MetaParams
from maml_jax.meta.batching import sum_over_tasks
from maml_jax.models.conv4 import Conv4
from maml_jax.models.losses import classification_loss
from maml_jax.models.normalization import norm_shifts_do_not_adapt
from maml_jax.models.resnet12 import ResNet12
from maml_jax.run import provenance
from maml_jax.types import Array, Params

_MODE = flags.DEFINE_enum("mode", "conv4", ["conv4", "resnet12"], "what to measure")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "timed repetitions of each variant", lower_bound=1)
_SECONDS = flags.DEFINE_float("seconds", 12.0, "no more rounds of a variant past this many seconds")
_WORKLOADS = flags.DEFINE_list("workloads", None, "names of workloads; all by default")
_THREADS = flags.DEFINE_integer("threads", 2, "CPU cores: XLA devices and PyTorch threads")
_PEERS = flags.DEFINE_bool("peers", True, "time PyTorch's libraries too, where installed")
_SLOW = flags.DEFINE_bool("slow", False, "run vmapped lax on large workloads too: minutes each")
_NAME = flags.DEFINE_string("name", None, "of the result; benchmark_MODE by default")

# (θ, episodes [B]) -> query loss and meta-gradient, both means over the tasks
MeanGradient = Callable[[Params, Episode], tuple[Array, Params]]


class Variant(NamedTuple):
    """How the convolution is computed and how tasks are batched."""

    convolution: str
    chunk: int | None  # tasks at once; None for all
    block_patches: int | None = None  # see Convolution
    devices: int = 1


MATMUL = 2048
PAUSE = 0.3  # seconds: the threads of the run before, PyTorch's above all, spin on for a while
WORKLOADS = {
    "omniglot_5w1s": Workload(32, 1, 1, 1, 28, 1, 64, False, 2.0),
    "omniglot_5w5s": Workload(8, 5, 5, 5, 28, 1, 64, False, 2.0),
    "images84_5w1s": Workload(4, 1, 1, 15, 84, 3, 32, True, 0.05),
}


def make_variants() -> dict[str, Variant]:
    """What is compared; with several devices also tasks split over them."""
    variants = {
        "lax, vmap": Variant("lax", None, 0),
        "lax, scan": Variant("lax", 1, 0),
        "im2col without blocks, vmap": Variant("im2col", None, 0),
        "im2col without blocks, scan": Variant("im2col", 1, 0),
        "im2col, chunks of 4": Variant("im2col", 4),
        "im2col, scan": Variant("im2col", 1),
    }
    devices = jax.local_device_count()
    if devices > 1:
        variants["im2col, scan, split over devices"] = Variant("im2col", 1, devices=devices)
    return variants


def meta_gradient(
    model: nn.Module, workload: Workload, kind: str, chunk: int | None
) -> MeanGradient:
    """The meta-gradient of a model by a gradient estimator, with so many tasks at once."""
    loss = classification_loss(model)
    inner_loop = InnerLoop(
        loss, num_steps=workload.steps, meta_gradient=kind, adapts=norm_shifts_do_not_adapt
    )

    def task_loss(init: Params, episode: Episode) -> Array:
        key = jax.random.key(0)
        meta_params = MetaParams(init, step_sizes=workload.step_size)
        adapted = inner_loop(meta_params, episode.support, key).params
        return loss(adapted, episode.query, key)[0]

    def mean(init: Params, episodes: Episode) -> tuple[Array, Params]:
        loss, grads = sum_over_tasks(
            lambda episode: jax.value_and_grad(task_loss)(init, episode), episodes, chunk=chunk
        )
        number = episodes.query.targets.shape[0]
        return loss / number, jax.tree.map(lambda leaf: leaf / number, grads)

    return mean


def query_loss(mean: MeanGradient, init: Params, episodes: Episode) -> float:
    """Computes one meta-gradient to its end and returns its query loss."""
    return float(jax.block_until_ready(mean(init, episodes))[0])


def make_variant(
    variant: Variant, workload: Workload, init: Params, episodes: Episode
) -> Callable[[], float]:
    """A function that computes one meta-gradient and returns its query loss."""
    model = Conv4(
        WAYS,
        workload.filters,
        workload.max_pool,
        convolution=variant.convolution,
        block_patches=variant.block_patches,
    )
    mean = meta_gradient(model, workload, "exact", variant.chunk)
    if variant.devices == 1:
        return partial(query_loss, jax.jit(mean), init, episodes)
    episodes = jax.tree.map(
        lambda leaf: leaf.reshape(variant.devices, -1, *leaf.shape[1:]), episodes
    )
    over_devices = jax.pmap(
        lambda init, episodes: jax.lax.pmean(mean(init, episodes), "devices"),
        "devices",
        in_axes=(None, 0),
        out_axes=None,
    )
    return partial(query_loss, over_devices, init, episodes)


def make_matmul() -> Callable[[], float]:
    """One float32 matrix product of 2 · MATMUL³ FLOPs, the rate of which is the machine's."""
    matrix = jnp.ones((MATMUL, MATMUL))
    product = jax.jit(lambda a: a @ a)
    return lambda: float(jax.block_until_ready(product(matrix))[0, 0])


def compare(
    runs: dict[str, Callable[[], float]],
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Query losses, and seconds of each run in rounds A B C A B C ..., after one warm-up each."""
    losses = {name: run() for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(_ROUNDS.value):
        for name, run in runs.items():
            if round_ and sum(seconds[name]) > _SECONDS.value:
                continue
            time.sleep(PAUSE)
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return losses, seconds


def _make_runs(
    name: str, installed: dict[str, str]
) -> tuple[dict[str, Callable[[], float]], list[str]]:
    """The meta-gradients of a workload, by label, and the labels of those in PyTorch."""
    workload, key = WORKLOADS[name], jax.random.key(0)
    episodes = make_episodes(workload, key)
    model = Conv4(WAYS, workload.filters, workload.max_pool)
    init = model.init(key, episodes.support.inputs[0])["params"]
    runs: dict[str, Callable[[], float]] = {}
    for label, variant in make_variants().items():
        if label == "lax, vmap" and flops(workload) > 2e10 and not _SLOW.value:
            continue
        runs[label] = make_variant(variant, workload, init, episodes)
    peers = torch_peers.make_peers(
        init,
        episodes,
        steps=workload.steps,
        step_size=workload.step_size,
        max_pool=workload.max_pool,
        installed=installed,
    )
    return runs | peers, list(peers)


def measure(name: str, installed: dict[str, str]) -> Record:
    """One workload's part of the result; prints its table."""
    workload = WORKLOADS[name]
    runs, peers = _make_runs(name, installed)
    losses, seconds = compare({"matmul": make_matmul(), **runs})
    rates = [2 * MATMUL**3 / s for s in seconds.pop("matmul")]
    del losses["matmul"]
    floor = flops(workload) / statistics.median(rates)
    medians = {label: statistics.median(values) for label, values in seconds.items()}
    best = min((label for label in medians if label not in peers), key=lambda of: medians[of])
    print(f"\n{name}: {flops(workload) / 1e9:.1f} GFLOP, floor {1e3 * floor:.0f} ms")
    for label, median in medians.items():
        print(
            f"  {label:34s} {1e3 * median:9.1f} ms {median / medians[best]:7.2f} x best"
            f" {median / floor:7.2f} x floor   query loss {losses[label]:.5f}",
            flush=True,
        )
    return {
        "workload": workload._asdict(),
        "gigaflop": flops(workload) / 1e9,
        "matmul_gigaflops_per_second": [1e-9 * rate for rate in rates],
        "floor_milliseconds": 1e3 * floor,
        "best": best,
        "milliseconds": {label: 1e3 * median for label, median in medians.items()},
        "over_best": {label: median / medians[best] for label, median in medians.items()},
        "over_floor": {label: median / floor for label, median in medians.items()},
        "seconds": seconds,
        "query_loss": losses,
    }


def measure_resnet12() -> list[Record]:
    """One task's meta-gradient of ResNet-12, 5-way 1-shot with 15 query images a class."""
    model, rows = ResNet12(WAYS), []
    for steps in (1, 5):
        workload = WORKLOADS["images84_5w1s"]._replace(tasks=1, steps=steps)
        episodes = make_episodes(workload, jax.random.key(0))
        init = jax.jit(model.init)(jax.random.key(0), episodes.support.inputs[0])["params"]
        for kind in ("exact", "reverse"):
            mean = meta_gradient(model, workload, kind, 1)
            compiled = jax.jit(mean).lower(init, episodes).compile()
            _, seconds = compare({kind: partial(query_loss, compiled, init, episodes)})
            row = {
                "num_steps": steps,
                "meta_gradient": kind,
                "seconds": seconds[kind],
                "temporary_megabytes": temporary_megabytes(compiled),
            }
            print(row, flush=True)
            rows.append(row)
    return rows


def main(_: list[str]) -> None:
    """Measures and keeps the results."""
    jax.config.update("jax_num_cpu_devices", _THREADS.value)
    installed, missing = torch_peers.available(_THREADS.value) if _PEERS.value else ({}, [])
    for line in missing:
        print(f"not compared with {line}")
    record: Record = {**provenance.describe(), "torch": installed, "missing": missing}
    if _MODE.value == "resnet12":
        record["resnet12"] = measure_resnet12()
    else:
        names = _WORKLOADS.value or list(WORKLOADS)
        record["workloads"] = {name: measure(name, installed) for name in names}
    print(results.write(_NAME.value or f"benchmark_{_MODE.value}", record))


if __name__ == "__main__":
    cli.run(main)
