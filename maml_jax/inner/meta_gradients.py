"""Estimators of the meta-gradient: how derivatives pass through the inner steps.

With adjoint λ_k = ∂L_query/∂θ_k, the inner step θ_{k+1} = θ_k − α g(θ_k) has the adjoint
λ_k = λ_{k+1} − α H(θ_k) λ_{k+1}. The entries of `META_GRADIENTS` differ in how they compute H λ:

- `exact`: forward-over-reverse (mixed mode), the jvp of g along λ. The backward pass stores no
  activations of the inner loop, only the states θ_k and gradients g_k of all K steps.
- `reverse`: ordinary reverse-over-reverse. It is the only one for losses without forward-mode
  rules, such as those with a custom_vjp.
- `first_order`: treats g as a constant, so that H λ = 0 (FOMAML).
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

from maml_jax.registry import Registry
from maml_jax.types import Array, Params, PyTree

_KEPT = "inner_gradient"
ValueAndGradient = tuple[tuple[Array, PyTree], Params]  # ((loss, aux), gradient)


class InnerInputs(NamedTuple):
    """Everything that the loss of an inner step depends on, apart from the adapted parameters."""

    frozen: Params
    support: PyTree
    key: Array  # [], of this step
    k: Array  # [], index of the step
    closed_over: PyTree = ()  # traced values that the loss closes over


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
    only_init: bool = False  # lengths, step sizes and optimizer get no gradient

    def inner_gradient_of(
        self, loss_fn: InnerLoss, params: Params, inputs: InnerInputs
    ) -> tuple[InnerGradient, list[Array]]:
        """Returns (inner_gradient, closed_over) of a loss that may close over traced values.

        The arguments are those of `without_closure`. inner_gradient needs closed_over in its
        inputs, and it names its gradients for `keep_gradients`.
        """
        pure_loss, closed_over = without_closure(loss_fn, params, inputs)
        gradient = self.inner_gradient(pure_loss)
        name: Callable[[Params, str], Params] = checkpoint_name

        def inner_gradient(params: Params, inputs: InnerInputs) -> ValueAndGradient:
            value, grads = gradient(params, inputs)
            return value, name(grads, _KEPT)

        return inner_gradient, closed_over


def without_closure(
    loss_fn: InnerLoss, params: Params, inputs: InnerInputs
) -> tuple[InnerLoss, list[Array]]:
    """Turns everything that a loss closes over into an input.

    A custom derivative rule only sees arguments, and a scan cannot lift what the rule closes over.
    jax.closure_convert only converts floats; a loss may also close over a task index or a key.

    Args:
      loss_fn: the loss of an inner step.
      params: adapted parameters; only their shapes and dtypes matter.
      inputs: inputs without closed_over; only their shapes and dtypes matter.

    Returns:
      (pure, closed_over) with loss_fn(params, inputs) = pure(params, inputs with closed_over).
    """
    jaxpr, shapes = jax.make_jaxpr(loss_fn, return_shape=True)(params, inputs)
    structure = jax.tree.structure(shapes)

    def pure(params: Params, inputs: InnerInputs) -> tuple[Array, PyTree]:
        own = jax.tree.leaves((params, inputs._replace(closed_over=())))
        flat = jax.core.eval_jaxpr(jaxpr.jaxpr, inputs.closed_over, *own)
        result: tuple[Array, PyTree] = jax.tree.unflatten(structure, flat)
        return result

    return pure, jaxpr.consts


def reverse(loss_fn: InnerLoss) -> InnerGradient:
    """Value and gradient of `loss_fn`, differentiated by reverse-over-reverse."""
    return jax.value_and_grad(loss_fn, has_aux=True)


def first_order(loss_fn: InnerLoss) -> InnerGradient:
    """Value and gradient of `loss_fn`, the gradient being a constant for the outer derivative."""

    def inner_gradient(params: Params, inputs: InnerInputs) -> ValueAndGradient:
        value, grads = jax.value_and_grad(loss_fn, has_aux=True)(params, inputs)
        return value, jax.lax.stop_gradient(grads)

    return inner_gradient


Join = Callable[[list[Array]], InnerInputs]


def _split_floats(inputs: InnerInputs) -> tuple[list[Array], Join, Join]:
    """Splits inputs into their floating-point leaves and two functions that put others in place.

    The first function makes new inputs. The second one makes a cotangent of the inputs, with float0
    in place of the other leaves.
    """
    leaves, structure = jax.tree.flatten(inputs)
    is_float = [jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in leaves]
    floats = [leaf for leaf, yes in zip(leaves, is_float, strict=True) if yes]
    others = [leaf for leaf, yes in zip(leaves, is_float, strict=True) if not yes]
    no_tangents = [np.zeros(jnp.shape(leaf), jax.dtypes.float0) for leaf in others]

    def join(floats: list[Array], others: list[Any]) -> InnerInputs:
        float_iter, other_iter = iter(floats), iter(others)
        joined: InnerInputs = jax.tree.unflatten(
            structure, [next(float_iter) if yes else next(other_iter) for yes in is_float]
        )
        return joined

    return floats, partial(join, others=others), partial(join, others=no_tangents)


def mixed_mode(loss_fn: InnerLoss) -> InnerGradient:
    """Value and gradient of `loss_fn`, the gradient being differentiated by forward-over-reverse.

    For the cotangent v of g = ∂L/∂θ, one jvp of (θ, η) ↦ ∂L/∂(θ, η) along (v, 0) gives both
    (∂²L/∂θ²) v and the mixed term (∂²L/∂η∂θ) v for every floating-point input η. The loss and its
    aux carry no derivative: differentiate a `monitor` instead.

    Args:
      loss_fn: a loss with forward-mode rules, which closes over no traced value.
    """

    value_and_grad = reverse(loss_fn)

    def forward(params: Params, inputs: InnerInputs) -> tuple[ValueAndGradient, Residuals]:
        return value_and_grad(params, inputs), (params, inputs)

    def backward(residuals: Residuals, cotangents: ValueAndGradient) -> tuple[Params, InnerInputs]:
        params, inputs = residuals
        _, vector = cotangents
        floats, as_inputs, as_cotangent = _split_floats(inputs)

        def loss(params: Params, floats: list[Array]) -> Array:
            return loss_fn(params, as_inputs(floats))[0]

        def all_gradients(params: Params) -> tuple[Params, list[Array]]:
            gradients: tuple[Params, list[Array]] = jax.grad(loss, argnums=(0, 1))(params, floats)
            return gradients

        _, (params_bar, floats_bar) = jax.jvp(all_gradients, (params,), (vector,))
        return params_bar, as_cotangent(floats_bar)

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
            floats, as_inputs, as_cotangent = _split_floats(inputs)

            def at(params: Params, floats: list[Array]) -> Params:
                return gradient(params, as_inputs(floats))[1]

            def matrix(vector: Params) -> Params:
                along = jax.jvp(lambda params: at(params, floats), (adapted,), (vector,))[1]
                return jax.tree.map(lambda v, h: v + h / proximal, vector, along)

            solution, _ = conjugate_gradients(matrix, cotangent, maxiter=cg_steps, tol=0.0)
            _, pull_back = jax.vjp(lambda floats: at(adapted, floats), floats)
            floats_bar = pull_back(jax.tree.map(lambda x: -x / proximal, solution))[0]
            return solution, jax.tree.map(jnp.zeros_like, adapted), as_cotangent(floats_bar)

        with_implicit = jax.custom_vjp(argmin)
        with_implicit.defvjp(forward, backward)
        return with_implicit(origin, jax.lax.stop_gradient(adapted), inputs), inputs.frozen

    return MetaGradient(reverse, keep_nothing, finish, needs_proximal=True, only_init=True)


META_GRADIENTS = Registry(
    "meta-gradient",
    {
        "exact": MetaGradient(mixed_mode, keep_gradients),
        "reverse": MetaGradient(reverse, keep_everything),
        "first_order": MetaGradient(first_order, keep_gradients),
        "implicit": implicit(),
        "reptile": MetaGradient(reverse, keep_nothing, reptile_finish, only_init=True),
    },
)
