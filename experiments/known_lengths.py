"""Learned lengths against their known optimum, on quadratics.

python -m experiments.known_lengths

Coordinates differ in curvature h, noise s and step size α; the expected query loss after K steps is
known, and with it the best K of every coordinate. Learns K from κ = 1 and from K_max / 2, with and
without a cost, and keeps the result in experiments/results/known_lengths.json.
"""

import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from experiments import cli, results_io
from maml_jax import (
    Halting,
    MetaParams,
    adapt,
    init_state,
    make_objective,
    make_train_loop,
    make_train_step,
    optax_outer,
    outer_chain,
    provenance,
    sgd,
)
from maml_jax.meta.cost import Budget, LearnedLengths, annealed, mean_length_cost
from maml_jax.meta.outer import keep_within
from maml_jax.tasks import quadratic
from maml_jax.types import Array, Params

_STEPS = flags.DEFINE_integer("meta_steps", 6_000, "meta-steps", lower_bound=1)
_GATES = flags.DEFINE_list("gates", ["ramp", "sigmoid", "straight_through"], "kinds of gates")
_COSTS = flags.DEFINE_list("costs", ["0", "0.02"], "weights of mean length / K_max")
_NAME = flags.DEFINE_string("name", "known_lengths", "of the result")
K_MAX, COORDINATES, TASKS = 20, 300, 128


class Problem(NamedTuple):
    """Coordinates [n]."""

    curvature: Array
    noise: Array
    rate: Array


def make_problem(key: Array, number: int = COORDINATES) -> Problem:
    """h log-uniform in [0.1, 2], s in [0.2, 2], α in [0.05, 0.7]: α·h from 0.005 to 1.4."""
    ranges = ((0.1, 2.0), (0.2, 2.0), (0.05, 0.7))
    draws = [
        jnp.exp(jax.random.uniform(k, (number,), float, jnp.log(low), jnp.log(high)))
        for k, (low, high) in zip(jax.random.split(key, 3), ranges, strict=True)
    ]
    return Problem(*draws)


def objectives(problem: Problem, cost: float) -> np.ndarray:
    """Expected objective of each coordinate at K = 0 … K_max, [K_max + 1, n]."""
    steps = jnp.arange(K_MAX + 1.0)[:, None]
    losses = quadratic.expected_losses(problem.curvature, problem.noise, problem.rate, steps)
    return np.asarray(losses + cost * steps / K_MAX)


def learn(problem: Problem, gate: str, start: float, cost: float, num_steps: int) -> np.ndarray:
    """Hard lengths [n] after meta-training κ alone."""
    number = problem.curvature.size
    halting = Halting(gate, "parameter", num_steps=K_MAX)
    params = {"theta": jnp.zeros(number)}

    def loss_fn(params: Params, data: quadratic.Quadratic, key: Array) -> tuple[Array, tuple[()]]:
        loss, aux = quadratic.loss(params["theta"], data, key)
        return loss / number, aux

    def support_loss(params: Params, data: Any, key: Array) -> tuple[Array, tuple[()]]:
        return quadratic.loss(params["theta"], data, key)

    lengths = LearnedLengths(
        halting, annealed(1.0, 1.0, num_steps), mean_length_cost(halting, params), Budget(cost)
    )
    objective = make_objective(
        partial(adapt, support_loss, sgd, num_steps=K_MAX), loss_fn, lengths=lengths
    )
    rate = optax.cosine_decay_schedule(0.05, num_steps)
    outer = optax_outer(
        outer_chain({"halting": optax.chain(optax.adam(rate), keep_within(*halting.bounds))})
    )
    sample = partial(quadratic.sample_episode, curvature=problem.curvature, noise=problem.noise)
    train = make_train_loop(make_train_step(sample, objective, outer), meta_batch_size=TASKS)
    kappa = halting.init(params, start, jax.random.key(1))
    meta_params = MetaParams(params, kappa, {"theta": problem.rate})
    state = init_state(meta_params, outer, jax.random.key(2), {"dual": jnp.zeros(())})
    state, _ = train(state, num_steps)
    return np.asarray(halting.hard_lengths(state.meta_params.halting)["theta"])


def compare(problem: Problem, learned: np.ndarray, cost: float) -> dict[str, Any]:
    """Learned lengths beside the best ones; coordinates with α·h > 1 apart, as they oscillate."""
    losses = objectives(problem, cost)
    best = losses.argmin(0)
    error = np.abs(learned - best)
    gap = losses[learned.astype(int), np.arange(best.size)] - losses.min(0)
    product = np.asarray(problem.rate * problem.curvature)
    contracts = product <= 1
    rest = [
        {"rate_times_curvature": p, "learned": k, "best": b, "relative_gap": g}
        for p, k, b, g in zip(
            *(product.tolist(), learned.tolist(), best.tolist(), (gap / losses.min(0)).tolist()),
            strict=True,
        )
        if p > 1 or abs(k - b) > 1
    ]
    return {
        "share_within_1": float(np.mean(error[contracts] <= 1)),
        "coordinates": int(contracts.sum()),
        "mean_error": float(error[contracts].mean()),
        "largest_relative_gap": float((gap / losses.min(0))[contracts].max()),
        "mean_length": float(learned.mean()),
        "best_mean_length": float(best.mean()),
        "rest": rest,
    }


def main(_: list[str]) -> None:
    """Learns, compares and keeps."""
    started, problem = time.time(), make_problem(jax.random.key(0))
    runs: list[dict[str, Any]] = []
    for gate in _GATES.value:
        for start in (1.0, K_MAX / 2):
            for cost in map(float, _COSTS.value):
                learned = learn(problem, gate, start, cost, _STEPS.value)
                run = {"gate": gate, "start": start, "cost": cost}
                runs.append(run | compare(problem, learned, cost))
                shown = {key: value for key, value in runs[-1].items() if key != "rest"}
                print(shown, f"rest: {len(runs[-1]['rest'])}", flush=True)
    record = {
        **provenance.describe(),
        "wall_seconds": round(time.time() - started),
        "k_max": K_MAX,
        "tasks": TASKS,
        "meta_steps": _STEPS.value,
        "runs": runs,
    }
    print(results_io.write(_NAME.value, record))


if __name__ == "__main__":
    cli.run(main)
