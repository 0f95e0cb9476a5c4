"""Inner optimizers by name, and what they learn.

Every entry of `INNER_OPTIMIZERS` makes an optax transform that returns directions, which
the inner loop multiplies by −α·gate. Add your own entries with `register_inner_optimizer`.
`as_direction` adapts optax optimizers that apply their own step size.

The entries from optax have arguments that keep meta-gradients finite where an inner gradient is
exactly 0, as behind a dead ReLU. For nadam, amsgrad, radam, lamb, muon and L-BFGS there are no such
arguments, and their meta-gradients become NaN.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from maml_jax.inner.optimizers.chebyshev import scale_by_chebyshev, scale_by_chebyshev_steps
from maml_jax.inner.optimizers.curvature import curvature_matrices, scale_by_curvature
from maml_jax.inner.optimizers.history import (
    scale_by_anderson,
    scale_by_barzilai_borwein,
    scale_by_conjugate_gradient,
)
from maml_jax.inner.optimizers.momentum import (
    adaptive_restart,
    scale_by_heavy_ball,
    scale_by_nesterov,
    scale_by_nesterov_sequence,
    scale_by_nesterov_strongly_convex,
    scale_by_ogm,
)
from maml_jax.inner.optimizers.tree_math import Coefficient, check_numbers
from maml_jax.params import expand, group, with_paths
from maml_jax.registry import Registry
from maml_jax.settings import between, positive
from maml_jax.types import Array, MakeOptimizer, Params, PyTree


def _momentum(hyper_params: PyTree) -> Coefficient:
    if not isinstance(hyper_params, Mapping) or "momentum" not in hyper_params:
        raise ValueError(
            'the inner optimizer has no momentum; use MetaParams(..., optimizer={"momentum": 0.9})'
        )
    return hyper_params["momentum"]


def sgd(hyper_params: PyTree = ()) -> optax.GradientTransformation:
    """Gradient descent: the direction is the gradient."""
    del hyper_params
    return optax.identity()


def heavy_ball(hyper_params: PyTree) -> optax.GradientTransformation:
    """Polyak's momentum m ← g + μ m, with μ = hyper_params["momentum"].

    Nothing keeps a learned μ in [0, 1). `make_inner_optimizer` learns its logit instead.
    """
    return scale_by_heavy_ball(_momentum(hyper_params))


def nesterov(hyper_params: PyTree) -> optax.GradientTransformation:
    """Nesterov's constant momentum with direction g + μ m; μ is that of `heavy_ball`."""
    return scale_by_nesterov(_momentum(hyper_params))


def adam(hyper_params: PyTree = ()) -> optax.GradientTransformation:
    """Adam. Its eps_root keeps meta-gradients finite where an inner gradient is exactly 0."""
    del hyper_params
    return optax.scale_by_adam(eps_root=1e-8)


def as_direction(optimizer: optax.GradientTransformation) -> MakeOptimizer:
    """Makes an inner optimizer of an optax optimizer that applies its own step size.

    Use step sizes of 1 with it. The updates of an optimizer, as of `optax.sgd`, point downhill, so
    their sign is changed. A `scale_by_*` transform points uphill and needs no such wrapper.

    Example:
      >>> import optax
      >>> from maml_jax.inner.optimizers import as_direction
      >>> make_optimizer = as_direction(optax.rmsprop(1e-3, eps=1e-6))
    """

    def make_optimizer(hyper_params: PyTree = ()) -> optax.GradientTransformation:
        del hyper_params
        return optax.chain(optimizer, optax.scale(-1.0))

    return make_optimizer


class MakeTransform(Protocol):
    """Makes a transform from the values of its hyper-parameters and the number of inner steps T."""

    def __call__(
        self, values: Mapping[str, PyTree], num_steps: int, /
    ) -> optax.GradientTransformation: ...


@dataclasses.dataclass(frozen=True)
class InnerOptimizer:
    """An entry of `INNER_OPTIMIZERS`; see `register_inner_optimizer`."""

    make: MakeTransform
    hyper: tuple[str, ...] = ()  # names in HYPER_PARAMS
    own_step: bool = False


class Constraint(NamedTuple):
    """The space in which a hyper-parameter is learned, so that it stays in its range."""

    to_learned: Callable[[Array], Array]
    to_value: Callable[[Array], Array]
    per_coordinate: bool = False  # may differ between coordinates


CONSTRAINTS = {
    "momentum": Constraint(jax.scipy.special.logit, jax.nn.sigmoid, per_coordinate=True),
    "inverse_condition": Constraint(jax.scipy.special.logit, jax.nn.sigmoid),
    "step": Constraint(jnp.log, jnp.exp),
    "largest": Constraint(jnp.log, jnp.exp),
}
HYPER_PARAMS = (*CONSTRAINTS, "matrices")  # matrices are learned as they are


def _spectrum(values: Mapping[str, PyTree]) -> tuple[PyTree, PyTree]:
    return values["largest"] * values["inverse_condition"], values["largest"]


INNER_OPTIMIZERS: Registry[InnerOptimizer] = Registry(
    "inner optimizer",
    {
        "sgd": InnerOptimizer(lambda values, num_steps: sgd()),
        "heavy_ball": InnerOptimizer(lambda values, num_steps: heavy_ball(values), ("momentum",)),
        "nesterov": InnerOptimizer(lambda values, num_steps: nesterov(values), ("momentum",)),
        "nesterov_sequence": InnerOptimizer(lambda values, num_steps: scale_by_nesterov_sequence()),
        "nesterov_strongly_convex": InnerOptimizer(
            lambda values, num_steps: scale_by_nesterov_strongly_convex(
                values["inverse_condition"]
            ),
            ("inverse_condition",),
        ),
        "nesterov_restart": InnerOptimizer(
            lambda values, num_steps: adaptive_restart(scale_by_nesterov_sequence())
        ),
        "nesterov_restart_value": InnerOptimizer(
            lambda values, num_steps: adaptive_restart(scale_by_nesterov_sequence(), "value")
        ),
        "ogm": InnerOptimizer(lambda values, num_steps: scale_by_ogm(max(num_steps, 1))),
        "chebyshev_steps": InnerOptimizer(
            lambda values, num_steps: scale_by_chebyshev_steps(
                *_spectrum(values), num_steps=max(num_steps, 1)
            ),
            ("largest", "inverse_condition"),
            own_step=True,
        ),
        "chebyshev": InnerOptimizer(
            lambda values, num_steps: scale_by_chebyshev(*_spectrum(values)),
            ("largest", "inverse_condition"),
            own_step=True,
        ),
        "barzilai_borwein": InnerOptimizer(
            lambda values, num_steps: scale_by_barzilai_borwein(values["step"]),
            ("step",),
            own_step=True,
        ),
        "barzilai_borwein_short": InnerOptimizer(
            lambda values, num_steps: scale_by_barzilai_borwein(values["step"], "short"),
            ("step",),
            own_step=True,
        ),
        "conjugate_gradient": InnerOptimizer(
            lambda values, num_steps: scale_by_conjugate_gradient("pr")
        ),
        "conjugate_gradient_hs": InnerOptimizer(
            lambda values, num_steps: scale_by_conjugate_gradient("hs")
        ),
        "anderson": InnerOptimizer(
            lambda values, num_steps: scale_by_anderson(values["step"]), ("step",), own_step=True
        ),
        "meta_curvature": InnerOptimizer(
            lambda values, num_steps: scale_by_curvature(values["matrices"]), ("matrices",)
        ),
        "meta_curvature_momentum": InnerOptimizer(
            lambda values, num_steps: optax.chain(
                scale_by_curvature(values["matrices"]), heavy_ball(values)
            ),
            ("matrices", "momentum"),
        ),
        "adam": InnerOptimizer(lambda values, num_steps: adam()),
        "rmsprop": InnerOptimizer(lambda values, num_steps: optax.scale_by_rms(eps=1e-6)),
        "adagrad": InnerOptimizer(lambda values, num_steps: optax.scale_by_rss()),
        "lion": InnerOptimizer(lambda values, num_steps: optax.scale_by_lion()),
    },
)


def register_inner_optimizer(
    name: str, make: MakeTransform, *, hyper: Sequence[str] = (), own_step: bool = False
) -> None:
    """Adds an inner optimizer, which configs can then select by its name.

    Args:
      name: letters, digits and underscores. Registering a name of your own again replaces it.
      make: (values, T) -> optax transform that returns directions, as in
        `maml_jax.inner.optimizers`: the loop subtracts them, so they point uphill as a gradient
        does. `values` maps the names in `hyper` to values in their range, and T is the number of
        inner steps.
      hyper: the hyper-parameters that the optimizer has, which can be learned: `momentum` in
        (0, 1), a tree like the parameters that adapt; `inverse_condition` in (0, 1); a first `step`
        > 0; the `largest` curvature > 0; the `matrices` of `curvature_matrices`.
      own_step: whether the transform sets its own step size. The inner loop's step sizes then start
        at 1, and the configured step size becomes the initial `step` and 1/`largest`.

    Raises:
      ValueError: the name cannot be used or belongs to maml_jax, or `hyper` has an unknown name.

    Example:
      >>> import optax
      >>> from maml_jax.inner import optimizers
      >>> optimizers.register_inner_optimizer(
      ...     "clipped_heavy_ball",
      ...     lambda values, num_steps: optax.chain(
      ...         optax.clip(1.0), optimizers.scale_by_heavy_ball(values["momentum"])
      ...     ),
      ...     hyper=["momentum"],
      ... )
      >>> optimizers.INNER_OPTIMIZERS.find("clipped_heavy_ball").hyper
      ('momentum',)
    """
    unknown = [key for key in hyper if key not in HYPER_PARAMS]
    if unknown:
        raise ValueError(
            f"hyper-parameter {unknown[0]!r} of {name!r} is unknown; "
            f"choose from {', '.join(HYPER_PARAMS)}"
        )
    INNER_OPTIMIZERS.register(name, InnerOptimizer(make, tuple(hyper), own_step))


def initial_hyper_params(
    name: str,
    adapted: Params,
    *,
    step_size: float,
    momentum: float,
    inverse_condition: float,
    granularity: str = "global",
) -> dict[str, PyTree]:
    """The initial `MetaParams.optimizer`, in the unconstrained space in which it is learned.

    Args:
      name: an entry of `INNER_OPTIMIZERS`.
      adapted: the parameters that adapt (arrays or shapes), with None in place of the others.
      step_size: α. It is the initial `step`, and 1/α is the initial `largest` curvature.
      momentum: μ.
      inverse_condition: the smallest curvature divided by the largest one.
      granularity: which coordinates share a momentum, a name in `GRANULARITIES`.

    Raises:
      ValueError: the name is unknown, or a value is out of its range.
    """
    check_numbers(positive(), step_size=step_size)
    check_numbers(between(0, 1), momentum=momentum)
    check_numbers(between(0, 1, with_low=False), inverse_condition=inverse_condition)
    start = {
        "momentum": momentum,
        "inverse_condition": inverse_condition,
        "step": step_size,
        "largest": 1 / step_size,
    }
    hyper_params: dict[str, PyTree] = {}
    for key in INNER_OPTIMIZERS.find(name).hyper:
        if key == "matrices":
            hyper_params[key] = curvature_matrices(adapted)
            continue
        constraint = CONSTRAINTS[key]
        value = constraint.to_learned(jnp.asarray(start[key], float))
        if constraint.per_coordinate:
            grouped = group(adapted, granularity, lambda index, shape: jnp.zeros(shape))
            hyper_params[key] = {of: zeros + value for of, zeros in grouped.items()}
        else:
            hyper_params[key] = value
    return hyper_params


def learned_values(hyper_params: Mapping[str, PyTree]) -> dict[str, Array]:
    """Name/group -> learned values in their range; for a matrix M, the values of M − I."""
    values = {}
    for name, learned in hyper_params.items():
        for path, leaf in with_paths(learned).items():
            value = (
                leaf - jnp.eye(len(leaf))
                if name == "matrices"
                else CONSTRAINTS[name].to_value(leaf)
            )
            values[f"{name}/{path}".rstrip("/")] = value
    return values


def make_inner_optimizer(
    name: str, adapted: Params, num_steps: int, granularity: str = "global"
) -> MakeOptimizer:
    """An entry of `INNER_OPTIMIZERS` for the inner loop, given `initial_hyper_params`.

    Args:
      name: the name of the entry.
      adapted: see `initial_hyper_params`.
      num_steps: T, the number of inner steps.
      granularity: see `initial_hyper_params`.

    Raises:
      ValueError: the name is unknown.
    """
    entry = INNER_OPTIMIZERS.find(name)

    def make_optimizer(hyper_params: Mapping[str, PyTree]) -> optax.GradientTransformation:
        values: dict[str, PyTree] = {}
        for key, learned in hyper_params.items():
            if key == "matrices":
                values[key] = learned
                continue
            values[key] = jax.tree.map(CONSTRAINTS[key].to_value, learned)
            if CONSTRAINTS[key].per_coordinate:
                values[key] = expand(values[key], adapted, granularity)
        return entry.make(values, num_steps)

    return make_optimizer
