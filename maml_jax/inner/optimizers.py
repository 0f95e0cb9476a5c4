"""Inner optimizers by name: each makes an optax transform that returns descent directions.

`adapt` applies −α·gate to the direction once, so the entries are optax's `scale_by_*` primitives.
Any other optax optimizer serves through `as_direction`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from maml_jax.inner import accelerated
from maml_jax.inner.groups import expand, group, with_paths
from maml_jax.types import Array, Params, PyTree

MakeOptimizer = Callable[[PyTree], optax.GradientTransformation]


def _momentum(hyper_params: Any) -> Any:
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
    """Polyak's momentum m ← g + μ m, with μ = hyper_params["momentum"] as it is.

    A learned μ may leave [0, 1); `make_inner_optimizer` learns its logit instead.
    """
    return accelerated.scale_by_heavy_ball(_momentum(hyper_params))


def nesterov(hyper_params: PyTree) -> optax.GradientTransformation:
    """Nesterov's momentum with constant μ: direction g + μ m, μ as in `heavy_ball`."""
    return accelerated.scale_by_nesterov(_momentum(hyper_params))


def adam(hyper_params: PyTree = ()) -> optax.GradientTransformation:
    """Adam. eps_root keeps meta-gradients finite where an inner gradient is exactly 0."""
    del hyper_params
    return optax.scale_by_adam(eps_root=1e-8)


def as_direction(optimizer: optax.GradientTransformation) -> MakeOptimizer:
    """Uses an optax optimizer that applies its own step size; run it with learning_rates = 1.

    An optimizer's updates point downhill, as `optax.sgd`'s and those of the aliases in
    `maml_jax.inner.accelerated`; a `scale_by_*` points uphill and is used as it is, without this.

    Example:
      >>> import optax
      >>> from maml_jax.inner.optimizers import as_direction
      >>> make_optimizer = as_direction(optax.rmsprop(1e-3, eps=1e-6))
    """

    def make_optimizer(hyper_params: Any = ()) -> optax.GradientTransformation:
        del hyper_params
        return optax.chain(optimizer, optax.scale(-1.0))

    return make_optimizer


class InnerOptimizer(NamedTuple):
    """A row of `INNER_OPTIMIZERS`."""

    make: Callable[[dict[str, Any], int], optax.GradientTransformation]  # (values, T) -> transform
    hyper: tuple[str, ...] = ()  # names in CONSTRAINTS
    own_step: bool = False  # finds its step size: α starts at 1, and `step` at the learning rate


class Constraint(NamedTuple):
    """How a hyper-parameter is learned without leaving its range."""

    to_learned: Callable[[Array], Array]
    to_value: Callable[[Array], Array]
    per_coordinate: bool = False  # may differ from parameter to parameter


CONSTRAINTS = {
    "momentum": Constraint(jax.scipy.special.logit, jax.nn.sigmoid, per_coordinate=True),
    "inverse_condition": Constraint(jax.scipy.special.logit, jax.nn.sigmoid),
    "step": Constraint(jnp.log, jnp.exp),
    "largest": Constraint(jnp.log, jnp.exp),
}


def _spectrum(values: dict[str, Any]) -> tuple[Any, Any]:
    return values["largest"] * values["inverse_condition"], values["largest"]


INNER_OPTIMIZERS = {
    "sgd": InnerOptimizer(lambda values, steps: sgd()),
    "heavy_ball": InnerOptimizer(lambda values, steps: heavy_ball(values), ("momentum",)),
    "nesterov": InnerOptimizer(lambda values, steps: nesterov(values), ("momentum",)),
    "nesterov_sequence": InnerOptimizer(
        lambda values, steps: accelerated.scale_by_nesterov_sequence()
    ),
    "nesterov_strongly_convex": InnerOptimizer(
        lambda values, steps: accelerated.scale_by_nesterov_strongly_convex(
            values["inverse_condition"]
        ),
        ("inverse_condition",),
    ),
    "nesterov_restart": InnerOptimizer(
        lambda values, steps: accelerated.adaptive_restart(accelerated.scale_by_nesterov_sequence())
    ),
    "nesterov_restart_value": InnerOptimizer(
        lambda values, steps: accelerated.adaptive_restart(
            accelerated.scale_by_nesterov_sequence(), "value"
        )
    ),
    "ogm": InnerOptimizer(lambda values, steps: accelerated.scale_by_ogm(max(steps, 1))),
    "chebyshev_steps": InnerOptimizer(
        lambda values, steps: accelerated.scale_by_chebyshev_steps(
            *_spectrum(values), num_steps=max(steps, 1)
        ),
        ("largest", "inverse_condition"),
        own_step=True,
    ),
    "chebyshev": InnerOptimizer(
        lambda values, steps: accelerated.scale_by_chebyshev(*_spectrum(values)),
        ("largest", "inverse_condition"),
        own_step=True,
    ),
    "barzilai_borwein": InnerOptimizer(
        lambda values, steps: accelerated.scale_by_barzilai_borwein(values["step"]),
        ("step",),
        own_step=True,
    ),
    "barzilai_borwein_short": InnerOptimizer(
        lambda values, steps: accelerated.scale_by_barzilai_borwein(values["step"], "short"),
        ("step",),
        own_step=True,
    ),
    "conjugate_gradient": InnerOptimizer(
        lambda values, steps: accelerated.scale_by_conjugate_gradient("pr")
    ),
    "conjugate_gradient_hs": InnerOptimizer(
        lambda values, steps: accelerated.scale_by_conjugate_gradient("hs")
    ),
    "anderson": InnerOptimizer(
        lambda values, steps: accelerated.scale_by_anderson(values["step"]),
        ("step",),
        own_step=True,
    ),
    "meta_curvature": InnerOptimizer(
        lambda values, steps: accelerated.scale_by_curvature(values["matrices"]), ("matrices",)
    ),
    "meta_curvature_momentum": InnerOptimizer(
        lambda values, steps: optax.chain(
            accelerated.scale_by_curvature(values["matrices"]), heavy_ball(values)
        ),
        ("matrices", "momentum"),
    ),
    # optax's, with arguments that keep meta-gradients finite where an inner gradient is exactly 0.
    "adam": InnerOptimizer(lambda values, steps: adam()),
    "rmsprop": InnerOptimizer(lambda values, steps: optax.scale_by_rms(eps=1e-6)),
    "adagrad": InnerOptimizer(lambda values, steps: optax.scale_by_rss()),
    "lion": InnerOptimizer(lambda values, steps: optax.scale_by_lion()),
}
UNSAFE = dict.fromkeys(
    ("nadam", "amsgrad", "radam", "lamb", "muon"),
    "its meta-gradients are NaN as soon as one inner gradient is exactly 0, as behind a dead ReLU; "
    "use 'adam'",
) | {
    "lbfgs": "its meta-gradients are NaN where all inner gradients are 0, and halted coordinates "
    "change the others' direction; use 'anderson'"
}


def get_inner_optimizer(name: str) -> InnerOptimizer:
    """A row of `INNER_OPTIMIZERS`.

    Raises:
      ValueError: the name is unknown, or refused for a reason in `UNSAFE`.
    """
    if name in UNSAFE:
        raise ValueError(f"{name!r} is refused: {UNSAFE[name]}")
    if name not in INNER_OPTIMIZERS:
        raise ValueError(f"{name!r} is unknown; choose from {', '.join(INNER_OPTIMIZERS)}")
    return INNER_OPTIMIZERS[name]


def initial_hyper_params(
    name: str,
    moving: Params,
    *,
    learning_rate: float,
    momentum: float,
    inverse_condition: float,
    granularity: str = "global",
) -> dict[str, Any]:
    """What `MetaParams.optimizer` starts from, in the unconstrained space that is learned in.

    Args:
      name: a row of `INNER_OPTIMIZERS`.
      moving: the parameters that adapt (arrays or shapes), None in the others' places.
      learning_rate: α; 1/α is taken for the largest curvature, and α for a first step.
      momentum: μ.
      inverse_condition: μ/L.
      granularity: of the momentum, a name in `GRANULARITIES`.

    Raises:
      ValueError: the name is refused, or a value out of its range.
    """
    accelerated.check_numbers(lambda rate: rate > 0, "more than 0", learning_rate=learning_rate)
    accelerated.check_numbers(lambda m: 0 <= m < 1, "0 or more, below 1", momentum=momentum)
    accelerated.check_numbers(
        lambda q: 0 < q < 1, "more than 0, below 1", inverse_condition=inverse_condition
    )
    start = {
        "momentum": momentum,
        "inverse_condition": inverse_condition,
        "step": learning_rate,
        "largest": 1 / learning_rate,
    }
    hyper: dict[str, Any] = {}
    for key in get_inner_optimizer(name).hyper:
        if key == "matrices":
            hyper[key] = accelerated.curvature_matrices(moving)
            continue
        constraint = CONSTRAINTS[key]
        value = constraint.to_learned(jnp.asarray(start[key], float))
        if constraint.per_coordinate:
            grouped = group(moving, granularity, lambda index, shape: jnp.zeros(shape))
            hyper[key] = {of: zeros + value for of, zeros in grouped.items()}
        else:
            hyper[key] = value
    return hyper


def learned_values(hyper_params: Mapping[str, Any]) -> dict[str, Array]:
    """Name/group -> values that are learned, in their range; of a matrix M, M - I."""
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
    name: str, moving: Params, num_steps: int, granularity: str = "global"
) -> MakeOptimizer:
    """A row of `INNER_OPTIMIZERS` as `adapt` takes it, from `initial_hyper_params`.

    Args:
      name: of the row.
      moving: see `initial_hyper_params`.
      num_steps: T, the number of steps of the call.
      granularity: of the momentum.
    """
    row = get_inner_optimizer(name)

    def make(hyper_params: dict[str, Any]) -> optax.GradientTransformation:
        values: dict[str, Any] = {}
        for key, learned in hyper_params.items():
            if key == "matrices":
                values[key] = learned
                continue
            values[key] = jax.tree.map(CONSTRAINTS[key].to_value, learned)
            if CONSTRAINTS[key].per_coordinate:
                values[key] = expand(values[key], moving, granularity)
        return row.make(values, num_steps)

    return make
