"""Networks of any library as two functions, and what a network must not need besides parameters."""

import inspect
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
from flax.errors import InvalidRngError, ScopeCollectionNotFound

from maml_jax.errors import first_line
from maml_jax.types import Array, Params

_INSTEAD = (
    "the inner loop has no such state for each task. Normalize with maml_jax.models.Normalization, "
    "nn.GroupNorm or nn.LayerNorm instead of nn.BatchNorm"
)


class FunctionalModel:
    """A network of any library: what `register_model` takes besides flax.linen modules.

    Args:
      init: (key, inputs [S, ...]) -> parameters, any pytree of arrays.
      apply: (parameters, inputs [S, ...]) -> outputs [S, y]. With normalization="support" it also
        takes `num_reference`; see `maml_jax.models.conv4.Conv4`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from maml_jax.models import FunctionalModel
      >>> def init(key, inputs):
      ...     return {"slope": jax.random.normal(key, (inputs.shape[-1], 1))}
      >>> model = FunctionalModel(init, lambda params, inputs: inputs @ params["slope"])
      >>> variables = model.init(jax.random.key(0), jnp.ones((5, 2)))
      >>> model.apply(variables, jnp.ones((5, 2))).shape
      (5, 1)
    """

    def __init__(
        self,
        init: Callable[[Array, Array], Params],
        apply: Callable[..., Array],
    ) -> None:
        """Takes the two functions."""
        self._init, self.function = init, apply

    def init(self, key: Array, inputs: Array) -> dict[str, Params]:
        """The parameters, as flax has them: {"params": parameters}."""
        return {"params": self._init(key, inputs)}

    def apply(self, variables: dict[str, Params], inputs: Array, **options: Any) -> Array:
        """The outputs for {"params": parameters}; `options` are passed on."""
        return self.function(variables["params"], inputs, **options)


Network = nn.Module | FunctionalModel


def takes_reference(model: Network) -> bool:
    """Whether a network takes `num_reference`, which normalization="support" hands it."""
    called = model.function if isinstance(model, FunctionalModel) else type(model).__call__
    parameters = inspect.signature(called).parameters
    any_name = inspect.Parameter.VAR_KEYWORD in {of.kind for of in parameters.values()}
    return any_name or "num_reference" in parameters


def initial_params(model: Network, key: Array, inputs: Array) -> Params:
    """The first parameters of a network.

    Raises:
      ValueError: the network keeps other variables, such as running statistics.
    """
    variables = model.init(key, inputs)
    if others := sorted(set(variables) - {"params"}):
        raise ValueError(f"the network keeps {', '.join(others)} beside its parameters; {_INSTEAD}")
    return variables["params"]


def outputs_of(model: Network, params: Params, inputs: Array, **options: Any) -> Array:
    """The outputs [S, y] of a network.

    Raises:
      ValueError: the network needs more than its parameters.
    """
    try:
        return cast(Array, model.apply({"params": params}, inputs, **options))
    except ScopeCollectionNotFound as error:
        raise ValueError(
            f"the network needs variables beside its parameters ({first_line(error)}); {_INSTEAD}"
        ) from error
    except InvalidRngError as error:
        raise ValueError(
            f"the network draws random numbers ({first_line(error)}), but receives no key; leave "
            "out nn.Dropout, or make it deterministic"
        ) from error
