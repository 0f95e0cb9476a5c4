"""Speed and memory of the sinusoid's meta-step.

python -m experiments.benchmark_sinusoid

Times, in one process and in the order A B C A B C ..., (scanned) this library's train loop, many
meta-steps a dispatch; (dispatched) the same meta-step dispatched one by one from Python;
(python_loop) an ordinary MAML in JAX, a Python loop over inner steps differentiated in reverse over
reverse, one jitted call a meta-step. Then time and temporary memory of the meta-gradient against K.
Keeps its results in experiments/results/benchmark_sinusoid.json.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import flags

from configs.sinusoid import get_config
from experiments import cli, results_io
from maml_jax import adapt, make_objective, provenance, sgd
from maml_jax.experiment import Experiment, build
from maml_jax.meta.tasks import task_keys
from maml_jax.types import Array, MetaParams, Params

_ROUNDS = flags.DEFINE_integer("rounds", 7, "timed repetitions of each variant", lower_bound=5)
_STEPS = flags.DEFINE_integer("meta_steps", 1_000, "meta-steps a repetition")
_INNER_STEPS = (1, 5, 20, 100)


def python_loop_maml(experiment: Experiment) -> Callable[[int], None]:
    """MAML as one writes it first: no scan, no custom derivative, one dispatch a meta-step."""
    config, problem = experiment.config, experiment.problem
    sample = problem.sampler(config.task.shots, config.task.query_shots, "train")
    optimizer = optax.adam(config.outer.learning_rate)
    tasks = jnp.arange(config.meta_batch_size)

    def task_loss(params: Params, key: Array) -> Array:
        support, query = sample(key)
        for _ in range(config.inner.num_steps):
            grads = jax.grad(lambda p: problem.loss_fn(p, support, key)[0])(params)
            params = jax.tree.map(lambda p, g: p - config.inner.learning_rate * g, params, grads)
        return problem.loss_fn(params, query, key)[0]

    @jax.jit
    def step(params: Params, state: Any, index: Array) -> tuple[Params, Any, Array]:
        keys = task_keys(jax.random.key(config.seed), index, tasks)

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
    """This library's loop, with that many meta-steps in a dispatch."""

    def run(num_steps: int) -> None:
        state = experiment.init()
        for _ in range(num_steps // steps_per_dispatch):
            state, _ = experiment.train(state, steps_per_dispatch)
        jax.block_until_ready(state)

    return run


def compare(variants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant in each round, in the order A B C A B C ...; one warm-up each."""
    for run in variants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def meta_gradient(experiment: Experiment, kind: str, num_steps: int) -> Any:
    """The compiled mean meta-gradient of one meta-batch."""
    config, problem = experiment.config, experiment.problem
    sample = problem.sampler(config.task.shots, config.task.query_shots, "train")
    adapt_fn = partial(adapt, problem.loss_fn, sgd, num_steps=num_steps, meta_gradient=kind)
    objective = make_objective(adapt_fn, problem.loss_fn)
    step = jnp.zeros((), jnp.int32)
    keys = task_keys(jax.random.key(0), step, jnp.arange(config.meta_batch_size))

    def mean_loss(init: Params) -> Array:
        meta_params = MetaParams(init, learning_rates=config.inner.learning_rate)
        losses, _ = jax.vmap(lambda key: objective(meta_params, sample(key), key, step, ()))(keys)
        return losses.mean()

    init = experiment.init().meta_params.init
    compiled = jax.jit(jax.grad(mean_loss)).lower(init).compile()
    return compiled, lambda: jax.block_until_ready(compiled(init))


def against_inner_steps(experiment: Experiment, rounds: int) -> list[dict[str, Any]]:
    """Time and temporary memory of the meta-gradient for each K and kind."""
    rows = []
    for num_steps in _INNER_STEPS:
        made = {kind: meta_gradient(experiment, kind, num_steps) for kind in ("exact", "reverse")}
        seconds = compare({kind: run for kind, (_, run) in made.items()}, rounds)
        for kind, (compiled, _) in made.items():
            rows.append(
                {
                    "num_steps": num_steps,
                    "meta_gradient": kind,
                    "milliseconds": 1e3 * statistics.median(seconds[kind]),
                    "temporary_megabytes": compiled.memory_analysis().temp_size_in_bytes / 1e6,
                }
            )
    return rows


def main(_: list[str]) -> None:
    """Measures and keeps the results."""
    experiment = build(get_config())
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
    print(results_io.write("benchmark_sinusoid", record))


if __name__ == "__main__":
    cli.run(main)
