"""Gates: how long each parameter is adapted in the inner loop.

A gate function maps (lengths, params, k) to a pytree like params whose leaves broadcast to the
parameters' shapes, with values m_k in [0, 1]. It is evaluated inside the scan at every step k, from
the learned values (`MetaParams.lengths`), so that no [K, p] array is ever stored.

`GATES` holds the kinds of gates. With learned length κ, direction u_k of the inner optimizer and
adjoint λ_k = ∂L_query/∂θ_k, the query loss has the derivative ∂L/∂κ = −α Σ_k (∂m_k/∂κ) u_k λ_{k+1}.

- `ramp`: m_k = clip(κ − k, 0, 1), a fractional number of steps. Only the step that is taken in part
  has a derivative. At an integer κ it is the right derivative, and at κ = K the left one, so that a
  length can leave either bound again.
- `sigmoid`: m_k = σ((κ − k − ½)/τ). About τ steps have a derivative.
- `straight_through`, `straight_through_ramp`: m_k = 1[κ − k ≥ ½] with the derivative of `sigmoid`
  or `ramp`. The gradient is biased, but training runs the same steps as evaluation.
- `binary`: m_k = 1[x > 0] at every step, with ∂m/∂x = ½ (von Oswald et al. 2021, sparse-MAML).
- `survival`: m_k = Π_{j≤k} σ(ℓ_j), with one logit ℓ_j per step that is kept within ±6, where its
  gradient does not vanish.
- `hard_concrete`: m_k = clip(1.2 s − 0.1, 0, 1), s = σ((logit u + a_k)/β), a_k = (κ − k − ½)/τ,
  with one uniform sample u per task and value; s = σ(a_k) at test (Louizos et al. 2018,
  arXiv:1712.01312).

Evaluation uses the hard gates 1[m_k ≥ ½] of every kind. Infinite learned values give gates of 0 or
1 without a derivative.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from maml_jax import keys
from maml_jax.params import Grouped, Shape, expand, get_granularity, group
from maml_jax.registry import Registry
from maml_jax.types import Array, GateFn, Params, PyTree

STRETCH, BETA = (-0.1, 1.1), 2 / 3  # of hard_concrete
SURVIVAL_BOUND = 6.0  # of the logits; σ(6)^K ≥ ½ for K ≤ 277 steps


def always_on(lengths: PyTree, params: Params, k: Array) -> PyTree:
    """The gates of MAML: every parameter takes every step in full."""
    del lengths, k
    return jax.tree.map(lambda p: jnp.ones((), p.dtype), params)


def with_derivative_of(value: Array, differentiable: Array) -> Array:
    """Returns exactly `value`, with the derivative of `differentiable` where that is finite."""
    differentiable = jnp.where(jnp.isfinite(differentiable), differentiable, 0)
    zero = differentiable - jax.lax.stop_gradient(differentiable)
    return jax.lax.stop_gradient(value) + zero


class Step(NamedTuple):
    """What a gate may depend on in addition to its learned values."""

    k: Array  # [], the index of the step
    num_steps: int  # K
    temperature: Array | float = 1.0  # τ
    logit_noise: Array | None = None  # logit u of hard_concrete; None at test


class GateValue(Protocol):
    """Maps the learned values of a group, [*shape] or [K, *shape], to gates [*shape] of a step."""

    def __call__(self, values: Array, step: Step, /) -> Array: ...


class InitGate(Protocol):
    """Makes learned values with this length for a group whose values have this shape."""

    def __call__(self, length: float, shape: Shape, num_steps: int, key: Array, /) -> Array: ...


def init_lengths(length: float, shape: Shape, num_steps: int, key: Array) -> Array:
    """The same length for all values."""
    del num_steps, key
    return jnp.full(shape, length)


class Gate(NamedTuple):
    """One kind of gate: an entry of `GATES`."""

    value: GateValue  # m_k
    init: InitGate = init_lengths
    probability_on: GateValue | None = None  # used by costs; None: m_k itself
    is_length: bool = True  # learned values are lengths in [0, K]
    per_step: bool = False  # learned values are [K, *shape]


def _ramp(length: Array, step: Step) -> Array:
    left = length - step.k
    first, last = step.k == 0, step.k == step.num_steps - 1
    sees = ((left >= 0) | first) & ((left < 1) | last)
    return with_derivative_of(jnp.clip(left, 0, 1), jnp.where(sees, left, 0))


def _logit(length: Array, step: Step) -> Array:
    return (length - step.k - 0.5) / step.temperature


def _sigmoid(length: Array, step: Step) -> Array:
    return jax.nn.sigmoid(_logit(length, step))


def _straight_through(length: Array, step: Step, soft: GateValue) -> Array:
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


def _init_mask_logits(length: float, shape: Shape, num_steps: int, key: Array) -> Array:
    """The initialization of sparse-MAML, shifted so that a share length / K of the masks is on.

    Logits are drawn from a centered Kaiming-uniform distribution, or U(−½, ½) below two axes.
    """
    fan_in = int(np.prod(shape[:-1]))
    bound = np.sqrt(6 / fan_in) if len(shape) > 1 else 0.5
    logits = jax.random.uniform(key, shape, minval=-bound, maxval=bound)
    if logits.size > 1:
        logits = logits - logits.mean()
    return logits + (2 * length / num_steps - 1) * bound


def _init_survival_logits(length: float, shape: Shape, num_steps: int, key: Array) -> Array:
    """The logit of the probability p with p + p² + … + p^K = length, at every step."""
    del key
    high = 1 / (1 + np.exp(-SURVIVAL_BOUND))
    low = 1 - high
    for _ in range(60):
        middle = (low + high) / 2
        longer = sum(middle**k for k in range(1, num_steps + 1)) > length
        low, high = (low, middle) if longer else (middle, high)
    return jnp.full((num_steps, *shape), np.log(low / (1 - low)))


GATES = Registry(
    "gate",
    {
        "ramp": Gate(_ramp),
        "sigmoid": Gate(_sigmoid),
        "straight_through": Gate(lambda x, step: _straight_through(x, step, _sigmoid)),
        "straight_through_ramp": Gate(lambda x, step: _straight_through(x, step, _ramp)),
        "binary": Gate(_binary, _init_mask_logits, is_length=False),
        "survival": Gate(_survival, _init_survival_logits, is_length=False, per_step=True),
        "hard_concrete": Gate(_hard_concrete, probability_on=_hard_concrete_on),
    },
)


def register_gate(name: str, gate: Gate) -> None:
    """Makes `lengths.gate=NAME` usable in configs, and `Gates(NAME, ...)` in code.

    `maml_jax.testing.check_gate(NAME)` checks the gate in your tests.

    Args:
      name: the name of the gate.
      gate: its functions; the inner loop differentiates `value` with respect to the learned values.

    Raises:
      ValueError: the name belongs to the package.

    Example:
      >>> import jax.numpy as jnp
      >>> from maml_jax.lengths.gates import Gate, Gates, register_gate
      >>> def heavy_tailed(length, step):
      ...     return 0.5 + jnp.arctan((length - step.k - 0.5) / step.temperature) / jnp.pi
      >>> register_gate("heavy_tailed", Gate(heavy_tailed))
      >>> Gates("heavy_tailed", num_steps=3).hard_lengths({"w": jnp.array([0.2, 1.6])})["w"]
      Array([0., 2.], dtype=float32)
    """
    GATES.register(name, gate)


def _values_of(lengths: Grouped) -> Grouped:
    if not isinstance(lengths, Mapping):
        raise ValueError(
            "MetaParams.lengths has no lengths; begin with Gates.init(params, length, key)"
        )
    return lengths


def _sum_over_steps(gates_at: Callable[[Array], Grouped], num_steps: int) -> Grouped:
    """Σ_k of a tree; only the tree of one step is held at a time."""
    zero = jnp.zeros((), jnp.int32)
    start = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(gates_at, zero)
    )

    @jax.checkpoint
    def add(total: Grouped, k: Array) -> tuple[Grouped, None]:
        return jax.tree.map(jnp.add, total, gates_at(k)), None

    total: Grouped = jax.lax.scan(add, start, jnp.arange(num_steps))[0]
    return total


class Gates:
    """Learned lengths: one kind of gate at one granularity.

    Args:
      gate: a name in `GATES`.
      granularity: a name in `maml_jax.params.GRANULARITIES`. `survival` needs `channel` or a
        coarser one, because it stores K logits per group.
      num_steps: K, the largest length.

    Raises:
      ValueError: a name is unknown, K is below 1, or the gate is `survival` per parameter.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from maml_jax import Gates, InnerLoop, MetaParams
      >>> gates = Gates("ramp", "parameter", num_steps=4)
      >>> lengths = {"w": jnp.array([0.0, 1.5, 4.0])}
      >>> meta_params = MetaParams({"w": jnp.zeros(3)}, lengths=lengths, step_sizes=1.0)
      >>> loss = lambda params, support, key: (params["w"].sum(), ())
      >>> inner_loop = InnerLoop(loss, num_steps=4, gates=gates.soft())
      >>> inner_loop(meta_params, None, jax.random.key(0)).params["w"]
      Array([ 0. , -1.5, -4. ], dtype=float32)
    """

    def __init__(self, gate: str, granularity: str = "parameter", *, num_steps: int) -> None:
        """Checks the names and the number of steps."""
        self.kind = GATES.find(gate)
        if num_steps < 1:
            raise ValueError(f"learned lengths with num_steps={num_steps}; use 1 or more")
        if self.kind.per_step and granularity == "parameter":
            raise ValueError(
                f"gate={gate!r} stores {num_steps} logits per group; "
                "use granularity 'channel', 'tensor', 'layer' or 'global'"
            )
        get_granularity(granularity)
        self.granularity = granularity
        self.num_steps = num_steps

    def init(self, params: Params, length: float, key: Array) -> Grouped:
        """Makes learned values with this (expected) length.

        Args:
          params: the adapted parameters, with None in place of the frozen ones (`split_params`).
          length: in [0, K]; for `binary`, K times the share of masks that are on.
          key: used for the random logits of `binary`.

        Raises:
          ValueError: the length is outside [0, K].
        """
        if not 0 <= length <= self.num_steps:
            raise ValueError(f"initial length {length} is outside [0, {self.num_steps}]")
        return group(
            params,
            self.granularity,
            lambda index, shape: self.kind.init(
                length, shape, self.num_steps, keys.group_key(key, index)
            ),
        )

    def soft(self, temperature: Array | float = 1.0, key: Array | None = None) -> GateFn:
        """Returns the differentiable gates of training.

        Args:
          temperature: τ.
          key: key of the noise of one task (`hard_concrete`); None adds no noise.
        """

        def gates(lengths: Grouped, params: Params, k: Array) -> PyTree:
            values = {}
            for name, value in _values_of(lengths).items():
                noise = None
                if key is not None:
                    # With the same u at every k, m_k never increases.
                    noise = jax.random.logistic(keys.named_key(key, name), jnp.shape(value))
                step = Step(k, self.num_steps, temperature, noise)
                values[name] = self.kind.value(value, step)
            return expand(values, params, self.granularity)

        return gates

    def hard(self, lengths: Grouped, params: Params, k: Array) -> PyTree:
        """The gate function of evaluation: 1[m_k ≥ ½]."""
        return expand(self._hard(lengths, k), params, self.granularity)

    def _hard(self, lengths: Grouped, k: Array) -> Grouped:
        step = Step(k, self.num_steps)
        return {
            name: (self.kind.value(value, step) >= 0.5).astype(value.dtype)
            for name, value in _values_of(lengths).items()
        }

    def hard_lengths(self, lengths: Grouped, num_steps: int | None = None) -> Grouped:
        """Number of steps that each group takes in an evaluation of num_steps (K by default)."""
        steps = self.num_steps if num_steps is None else num_steps
        return _sum_over_steps(lambda k: self._hard(lengths, k), steps)

    def probabilities_on(
        self, lengths: Grouped, k: Array, temperature: Array | float = 1.0
    ) -> Grouped:
        """Differentiable share or probability of each group being on at step k, for costs."""
        step = Step(k, self.num_steps, temperature)
        on = self.kind.probability_on or self.kind.value
        return {name: on(value, step) for name, value in lengths.items()}

    def expected_lengths(self, lengths: Grouped, temperature: Array | float = 1.0) -> Grouped:
        """Σ_k of `probabilities_on`, K_i = Σ_k m_{k,i}."""
        return _sum_over_steps(
            lambda k: self.probabilities_on(lengths, k, temperature), self.num_steps
        )

    @property
    def bounds(self) -> tuple[float, float]:
        """Bounds of the learned values: [0, K] for lengths, ±6 for logits per step, or none."""
        if self.kind.is_length:
            return 0.0, float(self.num_steps)
        bound = SURVIVAL_BOUND if self.kind.per_step else np.inf
        return -bound, bound
