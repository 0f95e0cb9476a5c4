"""Networks as flax.linen modules: `init` and `apply` are pure functions of a parameter pytree.

`FunctionalModel` makes such a network of two functions, for those of other libraries.

`mlp`, `conv4` and `resnet12` hold the networks, `convolution` and `normalization` their layers,
`losses` the classification loss, and `registry` the names that configs use.
"""

from maml_jax.models.conv4 import Conv4
from maml_jax.models.convolution import CONVOLUTIONS, Convolution
from maml_jax.models.functional import FunctionalModel
from maml_jax.models.losses import classification_logits, classification_loss, with_reference
from maml_jax.models.mlp import MLP
from maml_jax.models.normalization import (
    NORMALIZATIONS,
    Normalization,
    at_step,
    norm_shifts_do_not_adapt,
    with_steps,
)
from maml_jax.models.registry import MODELS, register_model
from maml_jax.models.resnet12 import ResNet12

__all__ = [
    "CONVOLUTIONS",
    "MLP",
    "MODELS",
    "NORMALIZATIONS",
    "Conv4",
    "Convolution",
    "FunctionalModel",
    "Normalization",
    "ResNet12",
    "at_step",
    "classification_logits",
    "classification_loss",
    "norm_shifts_do_not_adapt",
    "register_model",
    "with_reference",
    "with_steps",
]
