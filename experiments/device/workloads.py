"""What the device benchmark trains: meta-steps of image classifiers, sampling and update included.

The images are noise with the shape of the data sets, since only arithmetic is timed; no data has to
be at hand.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks.workloads import Workload, flops
from maml_jax import (
    InnerLoop,
    MetaParams,
    Objective,
    TrainStep,
    init_state,
    optax_outer,
    outer_chain,
)
from maml_jax.meta.population import Population, make_population_step, stack
from maml_jax.models.conv4 import Conv4
from maml_jax.models.losses import classification_loss
from maml_jax.models.normalization import norm_shifts_do_not_adapt
from maml_jax.parallel import make_population_loop
from maml_jax.tasks.episodes import Pool, make_sampler, normalise
from maml_jax.types import Array, Episode

IMAGES_PER_CLASS, CLASSES = 20, 200
LEARNING_RATE = 1e-3


class Case(NamedTuple):
    """A workload with so many classes in an episode."""

    workload: Workload
    ways: int = 5

    @property
    def flops(self) -> float:
        """FLOPs of the matrix products of one meta-gradient."""
        return flops(self.workload) * self.ways / 5


CASES = {
    "omniglot_5w1s": Case(Workload(32, 1, 1, 1, 28, 1, 64, False, 2.0)),
    "omniglot_5w5s": Case(Workload(32, 1, 5, 5, 28, 1, 64, False, 2.0)),
    "omniglot_20w1s": Case(Workload(16, 5, 1, 1, 28, 1, 64, False, 2.0), ways=20),
    "images84_5w1s": Case(Workload(4, 1, 1, 15, 84, 3, 32, True, 0.05)),
    "tiny": Case(Workload(2, 1, 1, 1, 8, 1, 4, False, 2.0)),  # to try the job itself
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """How a case is computed."""

    case: str
    convolution: str = "im2col"
    batching: str = "vmap"  # vmap: all tasks at once; scan: one by one; N: chunks of N
    precision: str = "float32"  # float32 or tf32, of matrix products
    flags: str = "default"  # a name in FLAGS
    members: int = 1  # P
    dispatch: int = 100  # meta-steps of a call

    @property
    def chunk(self) -> int | None:
        """Tasks at once."""
        return None if self.batching == "vmap" else int(self.batching.replace("scan", "1"))


# Name -> XLA_FLAGS, which a process reads once.
FLAGS = {
    "default": "",
    "no_command_buffers": "--xla_gpu_enable_command_buffer=",
    "no_autotuning": "--xla_gpu_autotune_level=0",
    "no_triton": "--xla_gpu_enable_triton_gemm=false",
}
PRECISIONS = {"float32": "float32", "tf32": "tensorfloat32"}
BASE = Variant("omniglot_5w1s")


def plan(cases: list[str]) -> list[Variant]:
    """All variants, the most important first: defaults, one change at a time, then crossed."""
    tf32: dict[str, object] = {"precision": "tf32"}
    lax: dict[str, object] = {"convolution": "lax"}
    changes: list[dict[str, object]] = [{}, tf32, lax, lax | tf32]
    changes += [{"members": 16}, {"members": 16} | tf32, {"flags": "no_command_buffers"}]
    changes += [{"batching": "4"}, {"members": 4}, {"batching": "scan"}]
    changes += [{"dispatch": number} for number in (1, 1_000)]
    changes += [{"flags": name} for name in FLAGS if name not in ("default", "no_command_buffers")]
    changes += [
        {"convolution": convolution, "batching": batching, "precision": precision}
        for convolution in ("im2col", "lax")
        for batching in ("vmap", "4", "scan")
        for precision in PRECISIONS
    ]
    every = [dataclasses.replace(BASE, case=case, **of) for of in changes for case in cases]  # type: ignore[arg-type]
    return list(dict.fromkeys(every))


def _pool(workload: Workload) -> Pool:
    shape = (CLASSES, IMAGES_PER_CLASS, workload.size, workload.size, workload.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return Pool(jnp.asarray(images), jnp.full(CLASSES, IMAGES_PER_CLASS))


def _prepare(episode: Episode) -> Episode:
    return normalise(episode, None, None)


def make_run(variant: Variant) -> Callable[[], None]:
    """A function that trains `variant.dispatch` meta-steps of all members to their end."""
    case = CASES[variant.case]
    workload = case.workload
    model = Conv4(case.ways, workload.filters, workload.max_pool, convolution=variant.convolution)
    loss = classification_loss(model)
    sampler = make_sampler(
        _pool(workload),
        ways=case.ways,
        shots=workload.shots,
        query_shots=workload.query_shots,
        prepare=_prepare,
    )
    inner_loop = InnerLoop(loss, num_steps=workload.steps, adapts=norm_shifts_do_not_adapt)
    outer = optax_outer(outer_chain({"init": optax.adam(LEARNING_RATE)}))
    step = TrainStep(
        sampler,
        Objective(inner_loop, loss),
        outer,
        tasks_per_chunk=variant.chunk,
        learned=("init",),
    )
    shape = (1, workload.size, workload.size, workload.channels)
    init = model.init(jax.random.key(0), jnp.zeros(shape))["params"]
    meta_params = MetaParams(init, step_sizes=workload.step_size)
    states = [init_state(meta_params, outer, jax.random.key(i)) for i in range(variant.members)]
    train = make_population_loop(
        make_population_step(lambda _: step),
        meta_batch_size=workload.tasks,
        devices=jax.devices()[:1],
    )
    population = [Population(stack(states))]

    def run() -> None:
        population[0], metrics = train(population[0], variant.dispatch)
        loss: Array = jax.block_until_ready(metrics["loss"])
        if not bool(jnp.isfinite(loss).all()):
            raise FloatingPointError(f"{variant} has a loss that is not finite")

    return run
