"""Gates: for how long each parameter moves in the inner loop.

A gate function maps (halting, params, k) to a pytree like params whose leaves broadcast to the
parameters' shapes, with values m_k in [0, 1]. It is evaluated inside the scan, at every step k,
from what is learned (`MetaParams.halting`): no [K, p] array is ever stored.

`GATES` has the kinds. With learned length κ, u_k the inner optimizer's direction and λ_k the
adjoint ∂L_query/∂θ_k, the derivative of the query loss is ∂L/∂κ = −α Σ_k (∂m_k/∂κ) u_k λ_{k+1}.

- `ramp`: m_k = clip(κ − k, 0, 1), a fractional number of steps. The derivative sees the one step
  that is taken in part. At the ties the one-sided derivative that looks into [0, K] is taken, so
  that a length at either bound can come back.
- `sigmoid`: m_k = σ((κ − k − ½)/τ). Sees about τ steps; soft in training, hard at test.
- `straight_through`, `straight_through_ramp`: m_k = 1[κ − k ≥ ½] with the derivative of sigmoid, or
  of ramp: biased, but training runs what the test runs.
- `binary`: m_k = 1[x > 0] at every step, ∂m/∂x = ½ (von Oswald et al. 2021, sparse-MAML).
- `survival`: m_k = Π_{j≤k} σ(ℓ_j), a logit per step, kept within ±6 so that it can turn back.
- `hard_concrete`: m_k = clip(1.2 s − 0.1, 0, 1), s = σ((logit u + a_k)/β), a_k = (κ − k − ½)/τ,
  one uniform u per task and value; s = σ(a_k) at test (Louizos et al. 2018, arXiv:1712.01312).

At evaluation every kind runs hard: 1[m_k ≥ ½].
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maml_jax.inner.groups import Grouped, expand, get_granularity, group
from maml_jax.types import Array, Params, PyTree

GateFn = Callable[[PyTree, Params, Array], PyTree]
STRETCH, BETA = (-0.1, 1.1), 2 / 3  # of hard_concrete
SURVIVAL_BOUND = 6.0  # of its logits: σ(6)^K keeps K ≤ 277 steps on


def always_on(halting: PyTree, params: Params, k: Array) -> PyTree:
    """The gates of MAML: every parameter takes every step in full."""
    del halting, k
    return jax.tree.map(lambda p: jnp.ones((), p.dtype), params)


def with_derivative_of(value: Array, differentiable: Array) -> Array:
    """`value`, exactly, with the derivative of `differentiable`."""
    zero = differentiable - jax.lax.stop_gradient(differentiable)
    return jax.lax.stop_gradient(value) + zero


class Step(NamedTuple):
    """What a gate may depend on beside its learned values."""

    k: Array  # [], the step
    num_steps: int  # K
    temperature: Array | float = 1.0  # τ
    logit_noise: Array | None = None  # logit u of hard_concrete; None at test


class Gate(NamedTuple):
    """One kind of gate."""

    value: Callable[[Array, Step], Array]  # (learned values, step) -> m_k
    init: Callable[[float, tuple[int, ...], int, Array], Array]  # (length, shape, K, key) -> values
    probability_on: Callable[[Array, Step], Array] | None = None  # of costs; None: m_k itself
    is_length: bool = True  # learned values are lengths, kept in [0, K]
    per_step: bool = False  # learned values have a leading [K]


def _ramp(length: Array, step: Step) -> Array:
    left = length - step.k
    first, last = step.k == 0, step.k == step.num_steps - 1
    sees = ((left >= 0) | first) & ((left < 1) | last)
    return with_derivative_of(jnp.clip(left, 0, 1), jnp.where(sees, left, 0))


def _logit(length: Array, step: Step) -> Array:
    return (length - step.k - 0.5) / step.temperature


def _sigmoid(length: Array, step: Step) -> Array:
    return jax.nn.sigmoid(_logit(length, step))


def _straight_through(length: Array, step: Step, soft: Callable[[Array, Step], Array]) -> Array:
    hard = (length - step.k >= 0.5).astype(length.dtype)
    return with_derivative_of(hard, soft(length, step))


def _binary(logit: Array, step: Step) -> Array:
    del step
    return with_derivative_of((logit > 0).astype(logit.dtype), 0.5 * logit)


def _survival(logits: Array, step: Step) -> Array:
    steps = jnp.arange(logits.shape[0]).reshape(-1, *(1,) * (logits.ndim - 1))
    log_alive = jnp.where(steps <= step.k, jax.nn.log_sigmoid(logits), 0).sum(0)
    return jnp.where(step.k < logits.shape[0], jnp.exp(log_alive), 0)


def _hard_concrete(length: Array, step: Step) -> Array:
    low, high = STRETCH
    logit = _logit(length, step)
    if step.logit_noise is not None:
        logit = (step.logit_noise + logit) / BETA
    return jnp.clip((high - low) * jax.nn.sigmoid(logit) + low, 0, 1)


def _hard_concrete_on(length: Array, step: Step) -> Array:
    low, high = STRETCH
    return jax.nn.sigmoid(_logit(length, step) - BETA * np.log(-low / high))


def _lengths(length: float, shape: tuple[int, ...], num_steps: int, key: Array) -> Array:
    del num_steps, key
    return jnp.full(shape, length)


def _mask_logits(length: float, shape: tuple[int, ...], num_steps: int, key: Array) -> Array:
    """sparse-MAML's: Kaiming-uniform, or U(−½, ½) below two axes, centred, and shifted.

    The shift moves the share of masks that are on away from one half, to length / K.
    """
    fan_in = int(np.prod(shape[:-1]))
    bound = np.sqrt(6 / fan_in) if len(shape) > 1 else 0.5
    logits = jax.random.uniform(key, shape, minval=-bound, maxval=bound)
    if logits.size > 1:
        logits = logits - logits.mean()
    return logits + (2 * length / num_steps - 1) * bound


def _survival_logits(length: float, shape: tuple[int, ...], num_steps: int, key: Array) -> Array:
    """The one probability p per step with p + p² + … + p^K = length."""
    del key
    high = 1 / (1 + np.exp(-SURVIVAL_BOUND))
    low = 1 - high
    for _ in range(60):
        middle = (low + high) / 2
        longer = sum(middle**k for k in range(1, num_steps + 1)) > length
        low, high = (low, middle) if longer else (middle, high)
    return jnp.full((num_steps, *shape), np.log(low / (1 - low)))


GATES = {
    "ramp": Gate(_ramp, _lengths),
    "sigmoid": Gate(_sigmoid, _lengths),
    "straight_through": Gate(lambda x, step: _straight_through(x, step, _sigmoid), _lengths),
    "straight_through_ramp": Gate(lambda x, step: _straight_through(x, step, _ramp), _lengths),
    "binary": Gate(_binary, _mask_logits, is_length=False),
    "survival": Gate(_survival, _survival_logits, is_length=False, per_step=True),
    "hard_concrete": Gate(_hard_concrete, _lengths, _hard_concrete_on),
}


def _values_of(halting: Grouped) -> Grouped:
    if not isinstance(halting, Mapping):
        raise ValueError(
            "MetaParams.halting has no lengths; begin with Halting.init(params, length, key)"
        )
    return halting


class Halting:
    """Learned lengths: one kind of gate at one granularity.

    Args:
      gate: a name in `GATES`.
      granularity: a name in `maml_jax.inner.groups.GRANULARITIES`; `survival` needs `channel` or
        coarser, as it stores K logits a group.
      num_steps: K, the largest length.

    Raises:
      ValueError: an unknown name, K below 1, or `survival` per parameter.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from maml_jax import Halting, MetaParams, adapt, sgd
      >>> halting = Halting("ramp", "parameter", num_steps=4)
      >>> params = {"w": jnp.zeros(3)}
      >>> lengths = {"w": jnp.array([0.0, 1.5, 4.0])}
      >>> meta_params = MetaParams(params, halting=lengths, learning_rates=1.0)
      >>> loss_fn = lambda params, support, key: (params["w"].sum(), ())
      >>> adapt(loss_fn, sgd, meta_params, None, jax.random.key(0), num_steps=4,
      ...       halting=halting.soft()).params["w"]
      Array([ 0. , -1.5, -4. ], dtype=float32)
    """

    def __init__(self, gate: str, granularity: str = "parameter", *, num_steps: int) -> None:
        """Checks the names."""
        if gate not in GATES:
            raise ValueError(f"gate={gate!r} is unknown; choose from {', '.join(GATES)}")
        if num_steps < 1:
            raise ValueError(f"learned lengths with num_steps={num_steps}; use 1 or more")
        if GATES[gate].per_step and granularity == "parameter":
            raise ValueError(
                f"gate={gate!r} stores {num_steps} logits a group; "
                "use granularity 'channel', 'tensor', 'layer' or 'global'"
            )
        get_granularity(granularity)
        self.kind = GATES[gate]
        self.granularity = granularity
        self.num_steps = num_steps

    def init(self, params: Params, length: float, key: Array) -> Grouped:
        """Learned values with this (expected) length.

        Args:
          params: those that adapt, None in the others' places (`split_params`).
          length: in [0, K]; of `binary` K times the share of masks that are on.
          key: of `binary`'s random logits.
        """
        if not 0 <= length <= self.num_steps:
            raise ValueError(f"initial length {length} is outside [0, {self.num_steps}]")
        return group(
            params,
            self.granularity,
            lambda index, shape: self.kind.init(
                length, shape, self.num_steps, jax.random.fold_in(key, index)
            ),
        )

    def soft(self, temperature: Array | float = 1.0, key: Array | None = None) -> GateFn:
        """Differentiable gates.

        Args:
          temperature: τ.
          key: of one task's noise (`hard_concrete`); None for no noise.
        """

        def gates(halting: Grouped, params: Params, k: Array) -> PyTree:
            values = {}
            for index, (name, value) in enumerate(_values_of(halting).items()):
                noise = None
                if key is not None:
                    # The same u at every k keeps m_k from rising again.
                    noise = jax.random.logistic(jax.random.fold_in(key, index), jnp.shape(value))
                step = Step(k, self.num_steps, temperature, noise)
                values[name] = self.kind.value(value, step)
            return expand(values, params, self.granularity)

        return gates

    def hard(self, halting: Grouped, params: Params, k: Array) -> PyTree:
        """The gates of evaluation, 0 or 1: 1[m_k ≥ ½]. A gate function."""
        return expand(self._hard(halting, k), params, self.granularity)

    def _hard(self, halting: Grouped, k: Array) -> Grouped:
        step = Step(k, self.num_steps)
        return {
            name: (self.kind.value(value, step) >= 0.5).astype(value.dtype)
            for name, value in _values_of(halting).items()
        }

    @staticmethod
    def _sum_over_steps(gates_at: Callable[[Array], PyTree], num_steps: int) -> PyTree:
        """Σ_k of a tree, without ever holding more than one step's."""
        zero = jnp.zeros((), jnp.int32)
        start = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(gates_at, zero)
        )

        @jax.checkpoint
        def add(total: PyTree, k: Array) -> tuple[PyTree, None]:
            return jax.tree.map(jnp.add, total, gates_at(k)), None

        return jax.lax.scan(add, start, jnp.arange(num_steps))[0]

    def hard_lengths(self, halting: Grouped, num_steps: int | None = None) -> Grouped:
        """Number of steps that each group takes in an evaluation of num_steps, K by default."""
        steps = self.num_steps if num_steps is None else num_steps
        return self._sum_over_steps(lambda k: self._hard(halting, k), steps)

    def probabilities_on(
        self, halting: Grouped, k: Array, temperature: Array | float = 1.0
    ) -> Grouped:
        """Differentiable share, or probability, of each group's being on at step k: of costs."""
        step = Step(k, self.num_steps, temperature)
        on = self.kind.probability_on or self.kind.value
        return {name: on(value, step) for name, value in halting.items()}

    def expected_lengths(self, halting: Grouped, temperature: Array | float = 1.0) -> Grouped:
        """Σ_k of `probabilities_on`, K_i = Σ_k m_{k,i}."""
        return self._sum_over_steps(
            lambda k: self.probabilities_on(halting, k, temperature), self.num_steps
        )

    @property
    def bounds(self) -> tuple[float, float]:
        """Where learned values are kept: [0, K] for lengths, ±6 for survival, else anywhere."""
        if self.kind.is_length:
            return 0.0, float(self.num_steps)
        bound = SURVIVAL_BOUND if self.kind.per_step else np.inf
        return -bound, bound
