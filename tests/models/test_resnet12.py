"""ResNet-12 at reduced width; except in the slow test, with one block on small images."""

import chex
import jax
import jax.numpy as jnp
import pytest

from maml_jax.models.losses import classification_loss
from maml_jax.models.resnet12 import ResNet12
from tests.models import problems


@pytest.mark.parametrize(
    ("size", "channels", "ways", "widths"),
    [(4, 2, 2, (3,)), pytest.param(84, 3, 5, (2, 3, 2, 3), marks=pytest.mark.slow)],
)
def test_meta_gradient_equals_plain_lax_in_reverse(size, channels, ways, widths):
    with jax.enable_x64(True):
        episode = problems.episode(size, channels, ways, query_shots=1)

        def gradient(kind, convolution, block_patches):
            model = ResNet12(ways, widths, convolution=convolution, block_patches=block_patches)
            init = problems.random_params(model, episode.support.inputs)
            loss_fn = classification_loss(model)
            return problems.compiled(
                jax.grad(lambda init: problems.meta_loss(loss_fn, init, episode, kind, 1)), init
            )

        reference = gradient("reverse", "lax", 0)
        largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(reference))
        exact = gradient("exact", "im2col", None)
        chex.assert_trees_all_close(exact, reference, rtol=1e-6, atol=1e-9 * largest)


def test_full_width_has_eight_million_parameters():
    shapes = jax.eval_shape(ResNet12(5).init, jax.random.key(0), jnp.zeros((1, 84, 84, 3)))
    assert 7.9e6 < sum(leaf.size for leaf in jax.tree.leaves(shapes)) < 8.1e6
