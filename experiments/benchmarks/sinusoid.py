"""Speed and memory of the sinusoid's meta-step.

python -m experiments.benchmarks.sinusoid

Times three variants in one process and in the order A B C A B C ...: (scanned) this library's train
loop, with many meta-steps per dispatch; (dispatched) the same meta-step, dispatched one by one from
Python; (python_loop) an ordinary MAML in JAX, a Python loop over inner steps differentiated in
reverse over reverse, with one jitted call per meta-step. Then it measures time and temporary memory
of the meta-gradient against K. The result is kept in experiments/results/benchmark_sinusoid.json.
"""

import statistics
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from absl import flags

from configs.sinusoid import get_config
from experiments import cli
from experiments.benchmarks.measuring import compare, temporary_megabytes
from experiments.publish import results
from experiments.publish.results import Record
from maml_jax import InnerLoop, Objective
from maml_jax.keys import task_keys
from maml_jax.run import provenance
from maml_jax.run.build import Experiment, build
from maml_jax.types import Array, MetaParams, Params, PyTree

_ROUNDS = flags.DEFINE_integer("rounds", 7, "timed repetitions of each variant", lower_bound=5)
_STEPS = flags.DEFINE_integer("meta_steps", 1_000, "meta-steps of a repetition")
_INNER_STEPS = (1, 5, 20, 100)


def python_loop_maml(experiment: Experiment) -> Callable[[int], None]:
    """MAML as one writes it first: no scan, no custom derivative, one dispatch per meta-step."""
    spec, problem = experiment.spec, experiment.problem
    sample = problem.sampler(spec.task.shots, spec.task.query_shots, "train")
    optimizer = optax.adam(spec.outer.learning_rate)
    tasks = jnp.arange(spec.meta_batch_size)

    def task_loss(params: Params, key: Array) -> Array:
        support, query = sample(key)
        for _ in range(spec.inner.num_steps):
            grads = jax.grad(lambda p: problem.loss(p, support, key)[0])(params)
            params = jax.tree.map(lambda p, g: p - spec.inner.step_size * g, params, grads)
        return problem.loss(params, query, key)[0]

    @jax.jit
    def step(params: Params, state: PyTree, index: Array) -> tuple[Params, PyTree, Array]:
        keys = task_keys(jax.random.key(spec.seed), index, tasks)

        def mean_loss(params: Params) -> Array:
            return jax.vmap(task_loss, (None, 0))(params, keys).mean()

        updates, state = optimizer.update(jax.grad(mean_loss)(params), state)
        return optax.apply_updates(params, updates), state, index + 1

    def run(num_steps: int) -> None:
        params = experiment.init().meta_params.init
        carry = (params, optimizer.init(params), jnp.zeros((), jnp.int32))
        for _ in range(num_steps):
            carry = step(*carry)
        jax.block_until_ready(carry)

    return run


def train_loop(experiment: Experiment, steps_per_dispatch: int) -> Callable[[int], None]:
    """This library's loop, with so many meta-steps per dispatch."""

    def run(num_steps: int) -> None:
        state = experiment.init()
        for _ in range(num_steps // steps_per_dispatch):
            state, _ = experiment.train(state, steps_per_dispatch)
        jax.block_until_ready(state)

    return run


def meta_gradient(
    experiment: Experiment, kind: str, num_steps: int
) -> tuple[jax.stages.Compiled, Params]:
    """The compiled mean meta-gradient of one meta-batch, and the initialization to call it with."""
    spec, problem = experiment.spec, experiment.problem
    sample = problem.sampler(spec.task.shots, spec.task.query_shots, "train")
    inner_loop = InnerLoop(problem.loss, num_steps=num_steps, meta_gradient=kind)
    objective = Objective(inner_loop, problem.loss)
    step = jnp.zeros((), jnp.int32)
    keys = task_keys(jax.random.key(0), step, jnp.arange(spec.meta_batch_size))

    def mean_loss(init: Params) -> Array:
        meta_params = MetaParams(init, step_sizes=spec.inner.step_size)
        losses, _ = jax.vmap(lambda key: objective(meta_params, sample(key), key, step, ()))(keys)
        return losses.mean()

    init = experiment.init().meta_params.init
    return jax.jit(jax.grad(mean_loss)).lower(init).compile(), init


def against_inner_steps(experiment: Experiment, rounds: int) -> list[Record]:
    """Time and temporary memory of the meta-gradient for each K and estimator."""
    rows = []
    for num_steps in _INNER_STEPS:
        made = {kind: meta_gradient(experiment, kind, num_steps) for kind in ("exact", "reverse")}
        seconds = compare({kind: partial(_run, *of) for kind, of in made.items()}, rounds)
        for kind, (compiled, _) in made.items():
            rows.append(
                {
                    "num_steps": num_steps,
                    "meta_gradient": kind,
                    "milliseconds": 1e3 * statistics.median(seconds[kind]),
                    "temporary_megabytes": temporary_megabytes(compiled),
                }
            )
    return rows


def _run(compiled: jax.stages.Compiled, init: Params) -> Params:
    return jax.block_until_ready(compiled(init))


def main(_: list[str]) -> None:
    """Measures and keeps the results."""
    experiment = build(get_config("paper"))
    steps, rounds = _STEPS.value, _ROUNDS.value
    runs = {
        "scanned": train_loop(experiment, steps),
        "dispatched": train_loop(experiment, 1),
        "python_loop": python_loop_maml(experiment),
    }
    seconds = compare({name: partial(run, steps) for name, run in runs.items()}, rounds)
    record = {
        **provenance.describe(),
        "config": experiment.config.to_dict(),
        "meta_steps": steps,
        "seconds": seconds,
        "meta_steps_per_second": {n: steps / statistics.median(s) for n, s in seconds.items()},
        "against_inner_steps": against_inner_steps(experiment, rounds),
    }
    print(results.write("benchmark_sinusoid", record))


if __name__ == "__main__":
    cli.run(main)
