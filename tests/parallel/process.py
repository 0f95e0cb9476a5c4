"""One process of several: draws tasks, trains and evaluates, and prints what came out as JSON."""

import json
import os
import sys
from typing import Any

if __name__ == "__main__":
    flags = (os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=2")
    os.environ["XLA_FLAGS"] = " ".join(flags)

import jax
import jax.numpy as jnp
import numpy as np

from maml_jax import InnerLoop, init_state, make_train_loop, sgd
from maml_jax.meta.population import Population, make_population_step, stack
from maml_jax.parallel import hosts, make_episode_evaluation, make_population_loop
from tests.meta.problems import (
    TASKS,
    UNIT_STEP,
    bowl,
    fresh_meta_params,
    make_step,
    sample_point,
)


def results() -> dict[str, Any]:
    """What one process sees; the tasks are those of its own devices."""
    drawn: list[str] = []

    def sample(key: jax.Array) -> Any:
        point = sample_point(key)
        bits = jax.lax.bitcast_convert_type(point[0], jnp.uint32)
        jax.debug.callback(lambda x: drawn.append(np.asarray(x).tobytes().hex()), bits)
        return point

    loop = make_train_loop(make_step(sample=sample), meta_batch_size=TASKS)
    first = init_state(fresh_meta_params(), UNIT_STEP, jax.random.key(0))
    state, _ = loop(first, 1)
    jax.block_until_ready(state.step)
    jax.effects_barrier()
    gradient = jax.tree.map(jnp.subtract, fresh_meta_params(), state.meta_params)

    members = [init_state(fresh_meta_params(), UNIT_STEP, jax.random.key(s)) for s in range(4)]
    joint = make_population_loop(make_population_step(lambda _: make_step()), meta_batch_size=TASKS)
    population, _ = joint(Population(stack(members)), 2)

    evaluation = make_episode_evaluation(
        InnerLoop(bowl, sgd, num_steps=1), bowl, sample_point, num_episodes=10, chunk=2
    )
    losses = evaluation(fresh_meta_params(), jax.random.key(0))["loss"]
    return {
        "tasks": drawn,
        "gradient": [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(gradient)],
        "members": np.asarray(population.states.meta_params.init).tolist(),
        "losses": losses.tolist(),
        "stops": hosts.in_any_process(hosts.is_writer()),
        "shared": hosts.shared(lambda: os.getpid()),
        "devices": jax.device_count(),
    }


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    hosts.keep_stdout()
    hosts.start(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    printed = json.dumps(results())
    print(printed, flush=True)
    hosts.wait_for_writer()
