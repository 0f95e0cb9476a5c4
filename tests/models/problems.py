"""Small episodes and meta-gradients for the tests of models."""

import jax
import jax.numpy as jnp
import numpy as np

from maml_jax import Episode, Examples, MetaParams, sgd
from maml_jax.models.normalization import norm_shifts_do_not_adapt
from tests.inner.problems import adapt


def episode(size, channels, ways=2, shots=1, query_shots=2, seed=0):
    """An episode of random images, in float64 if x64 is enabled."""
    rng = np.random.default_rng(seed)

    def examples(shots):
        targets = np.repeat(np.arange(ways), shots)
        images = (
            rng.uniform(size=(len(targets), size, size, channels))
            + 0.2 * targets[:, None, None, None]
        )
        return Examples(jnp.asarray(images), jnp.asarray(targets))

    return Episode(examples(shots), examples(query_shots))


def random_params(model, inputs, seed=0):
    """Parameters without the zeros and ones that can hide wrong derivatives."""
    shapes = jax.eval_shape(model.init, jax.random.key(seed), inputs)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(0.5 * rng.normal(size=p.shape)), shapes)


def meta_loss(loss_fn, init, episode, kind, num_steps, at_step=None):
    """The query loss after adaptation; the support loss sees at_step(params, 0)."""
    key = jax.random.key(0)
    see = at_step or (lambda params, k: params)
    adapted = adapt(
        lambda params, support, key: loss_fn(see(params, 0), support, key),
        sgd,
        MetaParams(init, step_sizes=0.4),
        episode.support,
        key,
        num_steps=num_steps,
        meta_gradient=kind,
        adapts=norm_shifts_do_not_adapt,
    ).params
    return loss_fn(see(adapted, num_steps), episode.query, key)[0]


def compiled(fn, *arguments, level=0):
    """Runs fn under jit; full compiler optimizations would cost more time than they save."""
    lowered = jax.jit(fn).lower(*arguments)
    return lowered.compile({"xla_backend_optimization_level": level})(*arguments)
