"""Networks by name, and their settings: the section `model` of a config."""

import dataclasses
from typing import Any, NamedTuple, Protocol

import flax.linen as nn

from maml_jax.models.conv4 import HEAD_INITIALIZERS, Conv4
from maml_jax.models.convolution import CONVOLUTIONS
from maml_jax.models.functional import Network
from maml_jax.models.mlp import INITIALIZERS, MLP
from maml_jax.models.normalization import NORMALIZATIONS, check_normalization
from maml_jax.models.resnet12 import ResNet12
from maml_jax.registry import Registry
from maml_jax.settings import at_least, check_settings_class, each, one_of, setting


class BuildModel(Protocol):
    """Makes a network with this number of outputs from an instance of its settings class."""

    def __call__(self, settings: Any, outputs: int, /) -> Network: ...


class Model(NamedTuple):
    """An entry of `MODELS`."""

    build: BuildModel
    settings: type | None = None  # its own settings class, the section NAME of a config
    images_only: bool = False  # needs inputs [S, H, W, C]
    uses: tuple[str, ...] | None = None  # fields of ModelSettings; None if that is not known


def _mlp(settings: "ModelSettings", outputs: int) -> nn.Module:
    kind = None if settings.normalization == "none" else settings.normalization
    return MLP(tuple(settings.hidden), outputs, settings.kernel_init, kind, flatten=True)


def _conv4(settings: "ModelSettings", outputs: int) -> nn.Module:
    check_normalization(settings.normalization)
    return Conv4(
        outputs,
        filters=settings.filters,
        max_pool=settings.max_pool,
        normalization=settings.normalization,
        head_init=None if settings.head_init == "auto" else settings.head_init,
        convolution=None if settings.convolution == "auto" else settings.convolution,
    )


def _resnet12(settings: "ModelSettings", outputs: int) -> nn.Module:
    check_normalization(settings.normalization)
    return ResNet12(
        outputs,
        widths=tuple(settings.widths),
        normalization=settings.normalization,
        convolution=None if settings.convolution == "auto" else settings.convolution,
    )


MODELS = Registry(
    "model",
    {
        "mlp": Model(_mlp, uses=("hidden", "kernel_init", "normalization")),
        "conv4": Model(
            _conv4,
            images_only=True,
            uses=("filters", "max_pool", "head_init", "normalization", "convolution"),
        ),
        "resnet12": Model(
            _resnet12, images_only=True, uses=("widths", "normalization", "convolution")
        ),
    },
)


def register_model(
    name: str, build: BuildModel, *, settings: type | None = None, images_only: bool = False
) -> None:
    """Makes `model.name=NAME` usable in configs.

    Args:
      name: the name of the model.
      build: (settings, outputs) -> flax module, or `FunctionalModel`, that maps inputs [S, ...] to
        outputs [S, outputs].
      settings: a frozen dataclass of `maml_jax.settings.setting` fields. It becomes the section
        NAME of a config, and `build` receives an instance of it instead of the `ModelSettings`, of
        which only `normalization` still matters: with "support", the network is handed
        `num_reference`.
      images_only: the model needs inputs [S, H, W, C].

    Raises:
      ValueError: the name belongs to the package, or `settings` is no such class.

    Example:
      >>> import flax.linen as nn
      >>> from maml_jax.models.registry import MODELS, register_model
      >>> register_model("linear", lambda settings, outputs: nn.Dense(outputs))
      >>> "linear" in MODELS
      True
    """
    check_settings_class(settings)
    uses = None if settings is None else ("normalization",)
    MODELS.register(name, Model(build, settings, images_only, uses))


def _is_width(value: Any) -> bool:
    return type(value) is int and value > 0


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """Which network, and its size."""

    name: str = setting("mlp", "network", one_of(MODELS))
    hidden: tuple[int, ...] = setting(
        (40, 40), "widths of mlp's hidden layers", each(_is_width, "a tuple of positive widths")
    )
    kernel_init: str = setting(
        "truncated_normal_0.01", "initializer of mlp's kernels", one_of(INITIALIZERS)
    )
    filters: int = setting(64, "filters of conv4", at_least(1))
    widths: tuple[int, ...] = setting(
        (64, 128, 256, 512),
        "filters of resnet12's blocks",
        each(_is_width, "a tuple of four positive widths", lengths=(4,)),
    )
    max_pool: bool = setting(False, "conv4 with max-pooling instead of strides")
    head_init: str = setting(
        "auto",
        "initializer of conv4's last layer; auto: as published",
        one_of(HEAD_INITIALIZERS, "auto"),
    )
    normalization: str = setting("none", "normalization layers", one_of(NORMALIZATIONS, "none"))
    convolution: str = setting(
        "auto", "implementation; auto: the fastest on the backend", one_of(CONVOLUTIONS, "auto")
    )
