"""Estimators of the meta-gradient: how derivatives pass through the inner steps.

With adjoint λ_k = ∂L_query/∂θ_k, the inner step θ_{k+1} = θ_k − α g(θ_k) has the adjoint
λ_k = λ_{k+1} − α H(θ_k) λ_{k+1}. The entries of `META_GRADIENTS` differ in how they compute H λ:

- `exact`: forward-over-reverse (mixed mode), the jvp of g along λ. The backward pass stores no
  activations of the inner loop, only the states θ_k and gradients g_k of all K steps.
- `reverse`: ordinary reverse-over-reverse. It is the only one for losses without forward-mode
  rules, such as those with a custom_vjp.
- `first_order`: treats g and the loss as constants, so that H λ = 0 (FOMAML).
- `implicit`: differentiates the minimum of a proximal problem instead of the steps (iMAML).
- `reptile`: uses θ − φ in place of the gradient of the query loss (Nichol et al. 2018,
  arXiv:1803.02999).

Reference: Kemaev et al., MixFlow-MG, ICML 2025, arXiv:2505.00793 (mixed mode).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from maml_jax.params import merge_params, split_floats
from maml_jax.registry import Registry
from maml_jax.types import Array, Params, PyTree

_KEPT = "inner_gradient"
ValueAndGradient = tuple[tuple[Array, PyTree], Params]  # ((loss, aux), gradient)


class InnerInputs(NamedTuple):
    """Everything that the loss of an inner step depends on, apart from the adapted parameters."""

    key: Array  # [], of this step
    k: Array  # [], index of the step
    values: PyTree  # made of frozen parameters, support data, and what the loss closes over
    frozen: Params = ()  # only for `FinishFn`


Residuals = tuple[Params, InnerInputs]


class InnerLoss(Protocol):
    """The loss of an inner step: (adapted parameters, inputs) -> (loss [], aux)."""

    def __call__(self, params: Params, inputs: InnerInputs, /) -> tuple[Array, PyTree]: ...


class InnerGradient(Protocol):
    """Value and gradient of the loss of an inner step, with respect to the adapted parameters."""

    def __call__(self, params: Params, inputs: InnerInputs, /) -> ValueAndGradient: ...


class StepFn(Protocol):
    """The body of the scan over inner steps: (carry, k) -> (carry, outputs)."""

    def __call__(self, carry: PyTree, k: Array, /) -> tuple[PyTree, PyTree]: ...


class FinishFn(Protocol):
    """Maps the initialization θ and the result φ of the steps to (φ, frozen parameters).

    It sets how derivatives pass from the result to what the inner loop depends on: `inputs` are
    those of a step after the last one, and `proximal` is λ.
    """

    def __call__(
        self, gradient: InnerGradient, origin: Params, adapted: Params, inputs: InnerInputs,
        proximal: float, /,
    ) -> tuple[Params, Params]: ...  # fmt: skip


def through_the_steps(
    gradient: InnerGradient, origin: Params, adapted: Params, inputs: InnerInputs, proximal: float
) -> tuple[Params, Params]:
    """Leaves both as they are, so that derivatives pass through the steps."""
    del gradient, origin, proximal
    return adapted, inputs.frozen


class MetaGradient(NamedTuple):
    """An estimator of the meta-gradient: an entry of `META_GRADIENTS`."""

    inner_gradient: Callable[[InnerLoss], InnerGradient]
    wrap_step: Callable[[StepFn], StepFn]  # what the scan's backward pass keeps of a step
    finish: FinishFn = through_the_steps
    needs_proximal: bool = False
    only_init: bool = False  # lengths, step sizes, optimizer and monitor get no gradient
    # As inner_gradient, with a derivative of the loss as well, for optimizers that read it.
    # None: the loss is a constant for them.
    with_loss: Callable[[InnerLoss], InnerGradient] | None = None

    def inner_gradient_of(self, loss_fn: InnerLoss, *, with_loss: bool = False) -> InnerGradient:
        """Returns the value and gradient of a loss, which `keep_gradients` can name.

        Its aux is a constant, and so is its loss, unless `with_loss` is true and the estimator has
        such a gradient.

        Args:
          loss_fn: a loss that closes over no traced value.
          with_loss: whether the inner optimizer reads the loss.
        """
        make = self.with_loss if with_loss else None
        gradient = (make or self.inner_gradient)(loss_fn)
        name: Callable[[PyTree, str], PyTree] = checkpoint_name

        def inner_gradient(params: Params, inputs: InnerInputs) -> ValueAndGradient:
            (loss, aux), grads = gradient(params, inputs)
            loss = name(loss, _KEPT) if make else jax.lax.stop_gradient(loss)
            return (loss, jax.lax.stop_gradient(aux)), name(grads, _KEPT)

        return inner_gradient


def reverse(loss_fn: InnerLoss) -> InnerGradient:
    """Value and gradient of `loss_fn`, differentiated by reverse-over-reverse."""
    return jax.value_and_grad(loss_fn, has_aux=True)


def first_order(loss_fn: InnerLoss) -> InnerGradient:
    """Value and gradient of `loss_fn`, the gradient being a constant for the outer derivative."""

    def inner_gradient(params: Params, inputs: InnerInputs) -> ValueAndGradient:
        value, grads = jax.value_and_grad(loss_fn, has_aux=True)(params, inputs)
        return value, jax.lax.stop_gradient(grads)

    return inner_gradient


def _no_tangents(others: PyTree) -> PyTree:
    """The cotangents of leaves that have none."""
    return jax.tree.map(lambda leaf: np.zeros(jnp.shape(leaf), jax.dtypes.float0), others)


def mixed_mode(loss_fn: InnerLoss, *, with_loss: bool = False) -> InnerGradient:
    """Value and gradient of `loss_fn`, the gradient being differentiated by forward-over-reverse.

    For the cotangent v of g = ∂L/∂θ, one jvp of (θ, η) ↦ ∂L/∂(θ, η) along (v, 0) gives both
    (∂²L/∂θ²) v and the mixed term (∂²L/∂η∂θ) v for every floating-point input η. The aux of the
    loss carries no derivative: differentiate a `monitor` instead.

    Args:
      loss_fn: a loss with forward-mode rules, which closes over no traced value.
      with_loss: whether the loss carries a derivative. That of `losses` does not, as it would cost
        the weight gradients once more.
    """

    value_and_grad = reverse(loss_fn)

    def forward(params: Params, inputs: InnerInputs) -> tuple[ValueAndGradient, Residuals]:
        return value_and_grad(params, inputs), (params, inputs)

    def backward(residuals: Residuals, cotangents: ValueAndGradient) -> tuple[Params, InnerInputs]:
        params, inputs = residuals
        (loss_bar, _), vector = cotangents
        floats, others = split_floats(inputs)

        def loss(params: Params, floats: InnerInputs) -> Array:
            return loss_fn(params, merge_params(floats, others))[0]

        def all_gradients(params: Params) -> tuple[Params, InnerInputs]:
            gradients: tuple[Params, InnerInputs] = jax.grad(loss, argnums=(0, 1))(params, floats)
            return gradients

        gradients, cotangent = jax.jvp(all_gradients, (params,), (vector,))
        if with_loss:
            cotangent = jax.tree.map(
                lambda c, g: c + (loss_bar * g).astype(c.dtype), cotangent, gradients
            )
        params_bar, floats_bar = cotangent
        return params_bar, merge_params(floats_bar, _no_tangents(others))

    with_mixed_mode = jax.custom_vjp(value_and_grad)
    with_mixed_mode.defvjp(forward, backward)
    return with_mixed_mode


def keep_gradients(step: StepFn) -> StepFn:
    """Recomputes a step in the backward pass, except for its inner gradients."""
    policy = jax.checkpoint_policies.save_only_these_names(_KEPT)
    return jax.checkpoint(step, prevent_cse=False, policy=policy)


def keep_everything(step: StepFn) -> StepFn:
    """Stores everything that the backward pass of a step needs."""
    return step


def keep_nothing(step: StepFn) -> StepFn:
    """Stops all gradients through a step."""

    def constant_step(carry: PyTree, k: Array) -> tuple[PyTree, PyTree]:
        carry, outputs = jax.lax.stop_gradient(step(jax.lax.stop_gradient(carry), k))
        return carry, outputs

    return constant_step


@jax.custom_vjp
def _reptile_params(origin: Params, adapted: Params) -> Params:
    """φ, with θ − φ as the gradient with respect to θ, whatever φ is used for."""
    del origin
    return adapted


def _reptile_backward(residuals: tuple[Params, Params], _: Params) -> tuple[Params, Params]:
    origin, adapted = residuals
    return jax.tree.map(jnp.subtract, origin, adapted), jax.tree.map(jnp.zeros_like, adapted)


_reptile_params.defvjp(
    lambda origin, adapted: (adapted, (origin, adapted)),
    _reptile_backward,
)


def reptile_finish(
    gradient: InnerGradient, origin: Params, adapted: Params, inputs: InnerInputs, proximal: float
) -> tuple[Params, Params]:
    """Makes θ − φ the gradient of θ; frozen parameters get none."""
    del gradient, proximal
    return _reptile_params(origin, adapted), jax.lax.stop_gradient(inputs.frozen)


def implicit(cg_steps: int = 5) -> MetaGradient:
    """Implicit differentiation of φ = argmin L(φ) + λ/2 ‖φ − θ‖² (iMAML).

    dφ/dθ = (I + H/λ)⁻¹ with H = ∇²L(φ), whatever path the steps took to φ. For anything else η that
    the inner loss depends on, dφ/dη = −(I + H/λ)⁻¹ ∂∇L/∂η / λ. The inverse is applied by conjugate
    gradients, also for K = 0. Memory and time of the backward pass do not depend on K.

    Args:
      cg_steps: number of conjugate-gradient steps, with one Hessian-vector product each.

    References:
      Rajeswaran, Finn, Kakade, Levine, Meta-Learning with Implicit Gradients, NeurIPS 2019,
      arXiv:1909.04630.
    """
    conjugate_gradients: Callable[..., tuple[Params, Any]] = jax.scipy.sparse.linalg.cg

    def finish(
        gradient: InnerGradient,
        origin: Params,
        adapted: Params,
        inputs: InnerInputs,
        proximal: float,
    ) -> tuple[Params, Params]:
        def argmin(origin: Params, adapted: Params, inputs: InnerInputs) -> Params:
            del origin, inputs
            return adapted

        def forward(
            origin: Params, adapted: Params, inputs: InnerInputs
        ) -> tuple[Params, Residuals]:
            del origin
            return adapted, (adapted, inputs)

        def backward(residuals: Residuals, cotangent: Params) -> tuple[Params, Params, InnerInputs]:
            adapted, inputs = residuals
            floats, others = split_floats(inputs)

            def at(params: Params, floats: InnerInputs) -> Params:
                return gradient(params, merge_params(floats, others))[1]

            def matrix(vector: Params) -> Params:
                along = jax.jvp(lambda params: at(params, floats), (adapted,), (vector,))[1]
                return jax.tree.map(lambda v, h: v + h / proximal, vector, along)

            solution, _ = conjugate_gradients(matrix, cotangent, maxiter=cg_steps, tol=0.0)
            _, pull_back = jax.vjp(lambda floats: at(adapted, floats), floats)
            floats_bar = pull_back(jax.tree.map(lambda x: -x / proximal, solution))[0]
            inputs_bar = merge_params(floats_bar, _no_tangents(others))
            return solution, jax.tree.map(jnp.zeros_like, adapted), inputs_bar

        with_implicit = jax.custom_vjp(argmin)
        with_implicit.defvjp(forward, backward)
        return with_implicit(origin, jax.lax.stop_gradient(adapted), inputs), inputs.frozen

    return MetaGradient(reverse, keep_nothing, finish, needs_proximal=True, only_init=True)


META_GRADIENTS = Registry(
    "meta-gradient",
    {
        "exact": MetaGradient(
            mixed_mode, keep_gradients, with_loss=partial(mixed_mode, with_loss=True)
        ),
        "reverse": MetaGradient(reverse, keep_everything, with_loss=reverse),
        "first_order": MetaGradient(first_order, keep_gradients),
        "implicit": implicit(),
        "reptile": MetaGradient(reverse, keep_nothing, reptile_finish, only_init=True),
    },
)
