"""Conv4: shapes, published initialization and meta-gradients."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maml_jax.models.conv4 import Conv4
from maml_jax.models.losses import classification_loss, with_reference
from maml_jax.models.normalization import (
    NORMALIZATIONS,
    at_step,
    norm_shifts_do_not_adapt,
    with_steps,
)
from tests.models import problems


def meta_problem(normalization, max_pool, num_steps, **options):
    """Returns (kind of meta-gradient -> query loss as a function of θ, θ)."""
    model = Conv4(2, 3, max_pool, normalization, **options)
    episode = problems.episode(16, 1)
    init = problems.random_params(model, episode.support.inputs)
    if normalization == "support":
        episode = with_reference(episode)
    if normalization.startswith("per_step"):
        init = with_steps(init, num_steps)
        rng = np.random.default_rng(1)
        init = jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape), init)
    see = at_step if normalization.startswith("per_step") else None
    loss_fn = classification_loss(model)
    return (
        lambda kind: lambda init: problems.meta_loss(loss_fn, init, episode, kind, num_steps, see),
        init,
    )


# One image per block puts the loop over blocks into one of the cases; it is slow to compile.
@pytest.mark.parametrize(
    ("normalization", "max_pool"),
    [
        pytest.param(
            name,
            name == "batch",
            marks=[] if name == "per_step" else [pytest.mark.slow],
        )
        for name in NORMALIZATIONS
    ],
)
def test_meta_gradient_equals_plain_lax_in_reverse(normalization, max_pool):
    with jax.enable_x64(True):
        first = normalization == "batch"
        problem = (normalization, max_pool, 2 if first else 1)
        loss, init = meta_problem(*problem, convolution="im2col", block_patches=9 if first else 0)
        plain, _ = meta_problem(*problem, convolution="lax", block_patches=0)
        exact = problems.compiled(jax.grad(loss("exact")), init)
        reference = problems.compiled(jax.grad(plain("reverse")), init)
        largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(reference))
        chex.assert_trees_all_close(exact, reference, rtol=1e-6, atol=1e-9 * largest)


# With full optimization, as in a run, operations are fused and rounded differently.
@pytest.mark.slow
@pytest.mark.parametrize("level", [0, 3])
def test_meta_gradient_equals_finite_differences(level):
    with jax.enable_x64(True):
        loss, init = meta_problem("batch", True, 1, block_patches=0)
        rng = np.random.default_rng(2)
        direction = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), init)
        gradient = problems.compiled(jax.grad(loss("exact")), init, level=level)
        along = sum(
            jnp.vdot(a, b)
            for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
        )
        # Small enough that no ReLU or maximum switches.
        steps = 1e-7 * jnp.array([1.0, -1.0])

        def moved(step):
            return loss("exact")(jax.tree.map(lambda p, d: p + step * d, init, direction))

        up, down = problems.compiled(lambda steps: jax.lax.map(moved, steps), steps)
        np.testing.assert_allclose((up - down) / (2e-7), along, rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "max_pool", "features"),
    [(28, False, 64), (28, True, 64), (32, True, 256), (84, True, 1600)],
)
def test_shapes_for_the_published_image_sizes(size, max_pool, features):
    model, images = Conv4(5, max_pool=max_pool), jnp.zeros((3, size, size, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    assert shapes["head"]["kernel"].shape == (features, 5)
    assert shapes["conv_0"]["kernel"].shape == (3, 3, 3, 64)
    assert "bias" not in shapes["conv_0"]


def test_published_initialization():
    init = jax.jit(Conv4(20).init)
    params = init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))["params"]
    np.testing.assert_allclose(np.std(params["head"]["kernel"]), 1.0, rtol=0.1)
    bound = np.sqrt(6 / (9 * 64 + 9 * 64))
    kernel = np.abs(params["conv_1"]["kernel"])
    assert 0.99 * bound < kernel.max() <= bound
    chex.assert_trees_all_equal(params["norm_0"], {"shift": jnp.zeros(64)})
    chex.assert_trees_all_equal(params["head"]["bias"], jnp.zeros(20))


def test_blocks_do_not_change_the_result():
    images = jax.random.normal(jax.random.key(1), (6, 20, 20, 2))
    whole, blocks = (Conv4(3, 4, True, block_patches=limit) for limit in (0, 1))
    params = {"params": problems.random_params(whole, images)}
    chex.assert_trees_all_close(
        problems.compiled(whole.apply, params, images),
        problems.compiled(blocks.apply, params, images),
        rtol=1e-4,
        atol=1e-5,
    )


def test_query_examples_do_not_influence_each_other_under_support_normalization():
    model = Conv4(3, 4, normalization="support")
    images = jax.random.normal(jax.random.key(1), (7, 16, 16, 1))
    params = {"params": problems.random_params(model, images)}
    apply = partial(model.apply, num_reference=4)
    together = problems.compiled(apply, params, images)
    alone = problems.compiled(apply, params, images[:5])
    chex.assert_shape(together, (3, 3))
    chex.assert_trees_all_close(together[:1], alone, rtol=1e-4, atol=1e-5)


def test_only_layers_named_norm_are_frozen():
    params = problems.random_params(Conv4(3, 4), jnp.zeros((1, 16, 16, 1)))
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    frozen = [path for path in paths if not norm_shifts_do_not_adapt(path)]
    assert frozen == [f"norm_{block}/shift" for block in range(4)]


def test_errors_name_the_value_and_what_is_allowed():
    images = jnp.zeros((2, 16, 16, 1))
    with pytest.raises(ValueError, match="normalization='layer' is unknown; choose from batch"):
        Conv4(2, normalization="layer").init(jax.random.key(0), images)
    with pytest.raises(ValueError, match="takes no num_reference"):
        Conv4(2).init(jax.random.key(0), images, num_reference=1)
