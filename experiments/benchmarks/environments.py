"""Speed of rollouts: environment steps per second, with the policy of the cards.

python -m experiments.benchmarks.environments --name=benchmark_environments

Rolls out all tasks of a meta-batch at once, as training does. The result is kept in
experiments/results/NAME.json; what is not installed is left out.
"""

import statistics
import time

import jax
from absl import flags

from configs import half_cheetah, navigation
from experiments import cli
from experiments.publish import results
from experiments.publish.results import Record
from maml_jax.errors import UsageError
from maml_jax.rl.losses import RolloutLoss
from maml_jax.run import provenance
from maml_jax.run.build import build
from maml_jax.run.messages import note
from maml_jax.types import Array

_NAME = flags.DEFINE_string("name", "benchmark_environments", "name of the result")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "timed repetitions", lower_bound=1)
CARDS = {
    "navigation": lambda: navigation.get_config(),
    "half_cheetah_direction": lambda: half_cheetah.get_config("direction"),
}


def measure(name: str, rounds: int) -> Record:
    """Steps per second of an environment, and the time of its compilation.

    Raises:
      UsageError: what it needs is not installed.
    """
    experiment = build(CARDS[name]())
    spec, loss = experiment.spec, experiment.problem.query_loss
    assert isinstance(loss, RolloutLoss)
    sample = experiment.problem.sampler(spec.task.shots, spec.task.query_shots, "train")
    params = experiment.init().meta_params.init

    def roll_out(key: Array) -> Array:
        return loss.make(params, sample(key).support, key).trajectories.rewards.sum()

    keys = jax.random.split(jax.random.key(0), spec.meta_batch_size)
    started = time.process_time()
    compiled = jax.jit(jax.vmap(roll_out)).lower(keys).compile()
    compile_seconds = time.process_time() - started
    seconds, cpu_seconds = [], []
    for _ in range(rounds + 1):  # the first one is a warm-up
        started, cpu_started = time.perf_counter(), time.process_time()
        jax.block_until_ready(compiled(keys))
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(time.process_time() - cpu_started)
    steps = spec.meta_batch_size * spec.task.shots * (loss.horizon or loss.environment.horizon)
    return {
        "rollouts": spec.meta_batch_size * spec.task.shots,
        "steps": steps,
        "compile_cpu_seconds": compile_seconds,
        "steps_per_second": steps / statistics.median(seconds[1:]),
        "steps_per_cpu_second": steps / statistics.median(cpu_seconds[1:]),
    }


def main(_: list[str]) -> None:
    """Measures and keeps the results."""
    environments = {}
    for name in CARDS:
        try:
            environments[name] = measure(name, _ROUNDS.value)
        except UsageError as error:
            note(f"left out: {error}")
    record = {**provenance.describe(), "environments": environments}
    print(results.write(_NAME.value, record))


if __name__ == "__main__":
    cli.run(main)
