"""Images that are too small for a network, or inputs that are no images, are refused."""

import jax
import jax.numpy as jnp
import pytest

from maml_jax.models.conv4 import Conv4
from maml_jax.models.resnet12 import ResNet12

POOLED = [Conv4(2, 2, max_pool=True), Conv4(2, 2, True, "group"), ResNet12(2, (1, 1, 1, 1))]


def logits(model, *shape):
    images = jnp.zeros((3, *shape))
    return jax.eval_shape(model.init_with_output, jax.random.key(0), images)[0].shape


@pytest.mark.parametrize("model", POOLED)
def test_images_that_pooling_leaves_nothing_of_are_refused(model):
    for shape in ((14, 14, 1), (4, 4, 1), (20, 15, 1)):
        with pytest.raises(ValueError, match="after 4 poolings; use 16 pixels or more"):
            logits(model, *shape)
    assert logits(model, 16, 17, 1) == (3, 2)


def test_strides_take_images_of_any_size():
    assert logits(Conv4(2, 2), 1, 1, 1) == (3, 2)
    with pytest.raises(ValueError, match="0x4 pixels"):
        logits(Conv4(2, 2), 0, 4, 1)


@pytest.mark.parametrize("model", [Conv4(2, 2), POOLED[-1]])
def test_feature_vectors_are_no_images(model):
    with pytest.raises(ValueError, match=r"inputs of shape \[3, 8\] are not images"):
        logits(model, 8)
