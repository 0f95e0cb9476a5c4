"""Learned lengths against their known optimum, on quadratics.

python -m experiments.studies.known_lengths

Coordinates differ in curvature h, noise s and step size α. The expected query loss after K steps is
known, and with it the best K of every coordinate. Lengths are learned from an initial length of 1
and of K_max / 2, with and without a cost. The result is kept in
experiments/results/known_lengths.json.
"""

import time
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from experiments import cli
from experiments.publish import results
from experiments.publish.results import Record
from maml_jax import (
    Budget,
    Gates,
    InnerLoop,
    LearnedLengths,
    MetaParams,
    Objective,
    TrainStep,
    init_state,
    keep_within,
    make_train_loop,
    optax_outer,
    outer_chain,
)
from maml_jax.lengths.cost import annealed, mean_length_cost
from maml_jax.run import provenance
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
    step_size: Array


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
    losses = quadratic.expected_losses(problem.curvature, problem.noise, problem.step_size, steps)
    return np.asarray(losses + cost * steps / K_MAX)


def learn(problem: Problem, gate: str, start: float, cost: float, num_steps: int) -> np.ndarray:
    """Hard lengths [n] after meta-training the lengths alone."""
    number = problem.curvature.size
    gates = Gates(gate, "parameter", num_steps=K_MAX)
    params = {"theta": jnp.zeros(number)}

    def support_loss(
        params: Params, data: quadratic.Quadratic, key: Array
    ) -> tuple[Array, tuple[()]]:
        return quadratic.loss(params["theta"], data, key)

    def query_loss(
        params: Params, data: quadratic.Quadratic, key: Array
    ) -> tuple[Array, tuple[()]]:
        loss, aux = support_loss(params, data, key)
        return loss / number, aux

    lengths = LearnedLengths(
        gates, annealed(1.0, 1.0, num_steps), mean_length_cost(gates, params), Budget(cost)
    )
    objective = Objective(InnerLoop(support_loss, num_steps=K_MAX), query_loss, lengths=lengths)
    adam = optax.adam(optax.cosine_decay_schedule(0.05, num_steps))
    outer = optax_outer(outer_chain({"lengths": optax.chain(adam, keep_within(*gates.bounds))}))
    sample = partial(quadratic.sample_episode, curvature=problem.curvature, noise=problem.noise)
    train = make_train_loop(TrainStep(sample, objective, outer), meta_batch_size=TASKS)
    initial = gates.init(params, start, jax.random.key(1))
    meta_params = MetaParams(params, initial, {"theta": problem.step_size})
    state = init_state(meta_params, outer, jax.random.key(2), {"dual": jnp.zeros(())})
    state, _ = train(state, num_steps)
    return np.asarray(gates.hard_lengths(state.meta_params.lengths)["theta"])


def compare(problem: Problem, learned: np.ndarray, cost: float) -> Record:
    """Learned lengths against the best ones, without the coordinates with α·h > 1, which oscillate.

    These are listed under "rest", with those whose length is more than one step off.
    """
    losses = objectives(problem, cost)
    best = losses.argmin(0)
    error = np.abs(learned - best)
    smallest = losses.min(0)
    relative_gap = (losses[learned.astype(int), np.arange(best.size)] - smallest) / smallest
    product = np.asarray(problem.step_size * problem.curvature)
    contracts = product <= 1
    rest = [
        {"step_size_times_curvature": p, "learned": k, "best": b, "relative_gap": g}
        for p, k, b, g in zip(
            *(product.tolist(), learned.tolist(), best.tolist(), relative_gap.tolist()),
            strict=True,
        )
        if p > 1 or abs(k - b) > 1
    ]
    return {
        "share_within_1": float(np.mean(error[contracts] <= 1)),
        "coordinates": int(contracts.sum()),
        "mean_error": float(error[contracts].mean()),
        "largest_relative_gap": float(relative_gap[contracts].max()),
        "mean_length": float(learned.mean()),
        "best_mean_length": float(best.mean()),
        "rest": rest,
    }


def main(_: list[str]) -> None:
    """Learns, compares and keeps."""
    started, problem = time.time(), make_problem(jax.random.key(0))
    runs: list[Record] = []
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
    print(results.write(_NAME.value, record))


if __name__ == "__main__":
    cli.run(main)
