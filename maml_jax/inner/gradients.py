"""How meta-gradients flow through an inner step: a choice of names, not of subclasses.

With adjoint λ_k = ∂L_query/∂θ_k, the inner step θ_{k+1} = θ_k − α g(θ_k) has the adjoint
λ_k = λ_{k+1} − α H(θ_k) λ_{k+1}. The rows of `META_GRADIENTS` differ in how H λ is had:

- `exact`: forward-over-reverse (mixed mode), jvp of g along λ. Inner activations are never stored
  for the backward pass: memory grows with K only by the states θ_k and the gradients g_k.
- `reverse`: ordinary reverse-over-reverse; the reference, and the only one for losses without
  forward-mode rules (a custom_vjp inside the loss).
- `first_order`: g is a constant, H λ = 0 (FOMAML).
- `implicit`: not through the steps at all, but through the minimum of a proximal problem (iMAML).
- `reptile`: no gradient of the query loss; θ − φ stands in its place (Nichol et al. 2018,
  arXiv:1803.02999).

Reference: Kemaev et al., MixFlow-MG, ICML 2025, arXiv:2505.00793 (mixed mode).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from maml_jax.types import Array, PyTree

_KEPT = "inner_gradient"
InnerLoss = Callable[..., tuple[Array, PyTree]]  # (params, *rest) -> loss, aux
InnerGradient = Callable[..., tuple[tuple[Array, PyTree], PyTree]]  # -> (loss, aux), gradients


StepFn = Callable[[PyTree, Array], tuple[PyTree, PyTree]]  # the body of the inner scan


FinishFn = Callable[[InnerGradient, PyTree, PyTree, tuple[Any, ...], float], tuple[PyTree, PyTree]]


def as_adapted(
    inner_gradient: InnerGradient,
    origin: PyTree,
    adapted: PyTree,
    rest: tuple[Any, ...],
    proximal: float,
) -> tuple[PyTree, PyTree]:
    """Gradients flow through the steps: (φ, fixed parameters) as they are."""
    del inner_gradient, origin, proximal
    return adapted, rest[0]


class MetaGradient(NamedTuple):
    """One way for meta-gradients to flow."""

    inner_gradient: Callable[[InnerLoss], InnerGradient]
    wrap_step: Callable[[StepFn], StepFn]  # what the scan's backward pass keeps of a step
    finish: FinishFn = as_adapted  # (∇L, θ, φ, other arguments of ∇L, λ) -> (φ, fixed parameters)
    needs_proximal: bool = False
    only_init: bool = False  # lengths, rates and optimizer get no gradient

    def inner_gradient_of(
        self, loss_fn: InnerLoss, *examples: PyTree
    ) -> tuple[InnerGradient, list[Any]]:
        """The inner gradient of a loss that may close over anything traced.

        Returns:
          (inner_gradient, closed_over); inner_gradient takes arguments like the examples, then
          closed_over, and names its gradients for `keep_gradients`.
        """
        pure_loss, closed_over = without_closure(loss_fn, *examples)
        gradient = self.inner_gradient(pure_loss)

        def inner_gradient(*arguments: PyTree) -> tuple[tuple[Array, PyTree], PyTree]:
            value, grads = gradient(*arguments)
            return value, checkpoint_name(grads, _KEPT)

        return inner_gradient, closed_over


def without_closure(
    fn: Callable[..., PyTree], *examples: PyTree
) -> tuple[Callable[..., PyTree], list[Any]]:
    """Turns all that `fn` closes over into one more argument.

    A custom derivative rule sees arguments only, and a scan cannot lift what the rule closes over.
    jax.closure_convert does so for floats alone; a loss may also close over a task index or key.

    Args:
      fn: a function of arguments like the examples.
      *examples: arguments; their shapes and dtypes count.

    Returns:
      (pure, closed_over) with fn(*arguments) = pure(*arguments, closed_over).
    """
    jaxpr, shapes = jax.make_jaxpr(fn, return_shape=True)(*examples)
    structure = jax.tree.structure(shapes)

    def pure(*arguments: PyTree) -> PyTree:
        *own, closed_over = arguments
        flat = jax.core.eval_jaxpr(jaxpr.jaxpr, closed_over, *jax.tree.leaves(own))
        return jax.tree.unflatten(structure, flat)

    return pure, jaxpr.consts


def reverse(loss_fn: InnerLoss) -> InnerGradient:
    """Value and gradient of `loss_fn`; its derivative is reverse-over-reverse."""
    return jax.value_and_grad(loss_fn, has_aux=True)


def first_order(loss_fn: InnerLoss) -> InnerGradient:
    """Value and gradient of `loss_fn`, the gradient a constant for the outer derivative."""

    def inner_gradient(params: PyTree, *rest: PyTree) -> tuple[tuple[Array, PyTree], PyTree]:
        value, grads = jax.value_and_grad(loss_fn, has_aux=True)(params, *rest)
        return value, jax.lax.stop_gradient(grads)

    return inner_gradient


def _split_inexact(tree: PyTree) -> tuple[list[Any], Callable[..., PyTree], list[Any]]:
    """Returns the floating leaves, a function that puts others in their place, and the rest."""
    leaves, structure = jax.tree.flatten(tree)
    inexact = [jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in leaves]
    floats = [leaf for leaf, yes in zip(leaves, inexact, strict=True) if yes]
    discrete = [leaf for leaf, yes in zip(leaves, inexact, strict=True) if not yes]

    def join(new_floats: list[Any], new_discrete: list[Any] | None = None) -> PyTree:
        float_iter = iter(new_floats)
        discrete_iter = iter(discrete if new_discrete is None else new_discrete)
        return jax.tree.unflatten(
            structure, [next(float_iter) if yes else next(discrete_iter) for yes in inexact]
        )

    return floats, join, discrete


def _no_tangents(leaves: list[Any]) -> list[Any]:
    return [np.zeros(jnp.shape(leaf), jax.dtypes.float0) for leaf in leaves]


def mixed_mode(loss_fn: InnerLoss) -> InnerGradient:
    """Value and gradient of `loss_fn`, with forward-over-reverse as the gradient's derivative.

    For the cotangent v of g = ∂L/∂θ, one jvp of (θ, η) ↦ ∂L/∂(θ, η) along (v, 0) gives both
    (∂²L/∂θ²) v and the mixed term (∂²L/∂η∂θ) v for every floating input η. The loss and its aux
    carry no derivative: differentiate a `monitor` instead.

    Args:
      loss_fn: (params, *rest) -> (loss [], aux). It needs forward-mode rules throughout, and every
        differentiable input must be an argument.

    Returns:
      (params, *rest) -> ((loss, aux), gradients shaped like params).
    """

    def value_and_grad(params: PyTree, rest: PyTree) -> tuple[tuple[Array, PyTree], PyTree]:
        return jax.value_and_grad(loss_fn, has_aux=True)(params, *rest)

    def forward(params: PyTree, rest: PyTree) -> tuple[Any, tuple[PyTree, PyTree]]:
        return value_and_grad(params, rest), (params, rest)

    def backward(residuals: tuple[PyTree, PyTree], cotangents: Any) -> tuple[PyTree, PyTree]:
        params, rest = residuals
        _, vector = cotangents
        floats, join, discrete = _split_inexact(rest)

        def loss(params: PyTree, floats: list[Any]) -> Array:
            return loss_fn(params, *join(floats))[0]

        def all_gradients(params: PyTree) -> tuple[PyTree, list[Any]]:
            return jax.grad(loss, argnums=(0, 1))(params, floats)

        _, (params_bar, floats_bar) = jax.jvp(all_gradients, (params,), (vector,))
        return params_bar, join(floats_bar, _no_tangents(discrete))

    with_mixed_mode: Any = jax.custom_vjp(value_and_grad)
    with_mixed_mode.defvjp(forward, backward)

    def inner_gradient(params: PyTree, *rest: PyTree) -> tuple[tuple[Array, PyTree], PyTree]:
        return with_mixed_mode(params, rest)

    return inner_gradient


def keep_gradients(step: StepFn) -> StepFn:
    """Recomputes a step in the backward pass, all but its inner gradients."""
    policy = jax.checkpoint_policies.save_only_these_names(_KEPT)
    return jax.checkpoint(step, prevent_cse=False, policy=policy)


def keep_everything(step: StepFn) -> StepFn:
    """Stores all that the backward pass of a step needs."""
    return step


@jax.custom_vjp
def _reptile_params(origin: PyTree, adapted: PyTree) -> PyTree:
    """φ, with θ − φ as the gradient with respect to θ whatever is done with φ."""
    del origin
    return adapted


def _reptile_backward(residuals: tuple[PyTree, PyTree], _: PyTree) -> tuple[PyTree, PyTree]:
    origin, adapted = residuals
    return jax.tree.map(jnp.subtract, origin, adapted), jax.tree.map(jnp.zeros_like, adapted)


_reptile_params.defvjp(
    lambda origin, adapted: (adapted, (origin, adapted)),
    _reptile_backward,
)


def reptile_finish(
    inner_gradient: InnerGradient,
    origin: PyTree,
    adapted: PyTree,
    rest: tuple[Any, ...],
    proximal: float,
) -> tuple[PyTree, PyTree]:
    """The gradient of θ is θ − φ; parameters that do not adapt get none."""
    del inner_gradient, proximal
    return _reptile_params(origin, adapted), jax.lax.stop_gradient(rest[0])


def keep_nothing(step: StepFn) -> StepFn:
    """A step that no gradient passes."""

    def constant_step(carry: PyTree, k: Array) -> tuple[PyTree, PyTree]:
        return jax.lax.stop_gradient(step(jax.lax.stop_gradient(carry), k))

    return constant_step


def implicit(cg_steps: int = 5) -> MetaGradient:
    """Implicit differentiation of φ = argmin L(φ) + λ/2 ‖φ − θ‖² (iMAML).

    dφ/dθ = (I + H/λ)⁻¹ with H = ∇²L(φ), whatever path the steps took to φ; for anything else η
    that the inner loss depends on, dφ/dη = −(I + H/λ)⁻¹ ∂∇L/∂η / λ. The inverse is applied by
    conjugate gradients, also where K = 0. Memory and time of the backward pass do not depend on K.

    Args:
      cg_steps: conjugate-gradient steps, one Hessian-vector product each.

    References:
      Rajeswaran, Finn, Kakade, Levine, Meta-Learning with Implicit Gradients, NeurIPS 2019,
      arXiv:1909.04630.
    """

    def finish(
        inner_gradient: InnerGradient,
        origin: PyTree,
        adapted: PyTree,
        rest: tuple[Any, ...],
        proximal: float,
    ) -> tuple[PyTree, PyTree]:
        def backward(residuals: Any, cotangent: PyTree) -> tuple[PyTree, PyTree, PyTree]:
            adapted, rest = residuals
            floats, join, discrete = _split_inexact(rest)

            def gradient(params: PyTree, floats: list[Any]) -> PyTree:
                return inner_gradient(params, *join(floats))[1]

            def matrix(vector: PyTree) -> PyTree:
                along = jax.jvp(lambda params: gradient(params, floats), (adapted,), (vector,))[1]
                return jax.tree.map(lambda v, h: v + h / proximal, vector, along)

            solution = jax.scipy.sparse.linalg.cg(matrix, cotangent, maxiter=cg_steps, tol=0.0)[0]
            _, pull_back = jax.vjp(lambda floats: gradient(adapted, floats), floats)
            floats_bar = pull_back(jax.tree.map(lambda x: -x / proximal, solution))[0]
            rest_bar = join(floats_bar, _no_tangents(discrete))
            return solution, jax.tree.map(jnp.zeros_like, adapted), rest_bar

        def forward(origin: PyTree, adapted: PyTree, rest: PyTree) -> tuple[PyTree, Any]:
            del origin
            return adapted, (adapted, rest)

        argmin: Any = jax.custom_vjp(lambda origin, adapted, rest: adapted)
        argmin.defvjp(forward, backward)
        return argmin(origin, jax.lax.stop_gradient(adapted), rest), rest[0]

    return MetaGradient(reverse, keep_nothing, finish, needs_proximal=True, only_init=True)


META_GRADIENTS = {
    "exact": MetaGradient(mixed_mode, keep_gradients),
    "reverse": MetaGradient(reverse, keep_everything),
    "first_order": MetaGradient(first_order, keep_gradients),
    "implicit": implicit(),
    "reptile": MetaGradient(reverse, keep_nothing, reptile_finish, only_init=True),
}
