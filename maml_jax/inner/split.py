"""Splits a function into what is known before the inner loop and what every step has to compute.

A loss whose parameters are in part frozen computes the same features again in every inner step.
`split_known` finds them in the traced program of any function, by following which values depend on
arguments that change, and evaluates them once.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from maml_jax.lengths.flops import flops_by_inputs
from maml_jax.types import Array, PyTree

_INLINED = ("jit", "pjit", "closed_call", "core_call")


class RestFn(Protocol):
    """The part of a function that remains: (changing, values) -> the function's result."""

    def __call__(self, changing: PyTree, values: list[Array], /) -> PyTree: ...


class _Function(Protocol):
    def __call__(self, changing: PyTree, constant: PyTree, /) -> PyTree: ...


Values = dict[Var, Any]


def _variables(atoms: Iterable[Any]) -> list[Var]:
    return list(dict.fromkeys(atom for atom in atoms if isinstance(atom, Var)))


def _read_by(equations: Iterable[JaxprEqn], results: Iterable[Any]) -> list[Var]:
    return _variables([*(atom for of in equations for atom in of.invars), *results])


def _evaluate(equations: Sequence[JaxprEqn], values: Values, results: Sequence[Any]) -> list[Any]:
    """Values of atoms, given those of the variables that the equations begin with.

    Calls of `jit` are evaluated equation by equation.
    """
    values, used = dict(values), set(_read_by(equations, results))

    def read(atoms: Iterable[Any]) -> list[Any]:
        return [atom.val if isinstance(atom, Literal) else values[atom] for atom in atoms]

    for equation in equations:
        wanted = [of for of in equation.outvars if of in used]
        if equation.primitive.name in _INLINED:
            inner = equation.params["jaxpr"]
            given = dict(zip(inner.jaxpr.constvars, inner.consts, strict=True))
            given.update(zip(inner.jaxpr.invars, read(equation.invars), strict=True))
            made = dict(zip(equation.outvars, inner.jaxpr.outvars, strict=True))
            outputs = _evaluate(inner.jaxpr.eqns, given, [made[of] for of in wanted])
        else:
            inputs = _variables(equation.invars)
            one = Jaxpr((), inputs, wanted, [equation], equation.effects)
            outputs = jax.core.eval_jaxpr(one, (), *read(inputs))
        values.update(zip(wanted, outputs, strict=True))
    return read(results)


def _needed(jaxpr: Jaxpr) -> list[JaxprEqn]:
    """The equations that a result depends on, or that have side effects."""
    wanted, needed = set(_variables(jaxpr.outvars)), []
    for equation in reversed(jaxpr.eqns):
        if equation.effects or wanted.intersection(equation.outvars):
            wanted.update(_variables(equation.invars))
            needed.append(equation)
    return needed[::-1]


def _parts(
    jaxpr: Jaxpr, changing: Sequence[Var]
) -> tuple[list[JaxprEqn], list[JaxprEqn], list[Var]]:
    """The equations before the loop, those of a step, and the variables that a step reads."""
    free, before, after, moved, made = [], [], [], set(changing), set[Var]()
    for equation in _needed(jaxpr):
        read = set(_variables(equation.invars))
        if equation.effects or moved & read:
            after.append(equation)
            moved.update(equation.outvars)
        elif read <= made:  # of literals alone
            free.append(equation)
            made.update(equation.outvars)
        else:
            before.append(equation)
    needed = dict.fromkeys(_read_by(after, jaxpr.outvars))
    for equation in reversed(before):
        # A broadcast is cheaper to repeat than to keep.
        if equation.primitive.name == "broadcast_in_dim" and set(equation.outvars) & set(needed):
            after.insert(0, equation)
            needed.update(dict.fromkeys(_variables(equation.invars)))
    after = [*free, *after]
    made = set(changing).union(*(equation.outvars for equation in after))
    return [*free, *before], after, [of for of in needed if of not in made]


def _known_flops(jaxpr: Jaxpr, number: int) -> float:
    """FLOPs of what depends on none of the first inputs."""
    changing = frozenset(["changing"])
    read = [changing] * number + [frozenset[str]()] * (len(jaxpr.invars) - number)
    return sum(flops for flops, of in flops_by_inputs(jaxpr, read)[0] if not of)


def split_known(
    function: _Function, changing: PyTree, constant: PyTree
) -> tuple[RestFn, list[Array]]:
    """Evaluates what a function computes from constant arguments alone.

    Calls of `jit` are looked into. Other functions with a program of their own, such as loops and
    custom derivative rules, belong to one part as a whole. Nothing is evaluated unless it contains
    matrix products or convolutions: everything else is cheaper to repeat than to keep.

    Args:
      function: (changing, constant) -> pytree of arrays. It may close over traced values, which are
        constant.
      changing: only the shapes and dtypes matter.
      constant: arrays.

    Returns:
      (rest, values) with rest(changing, values) = function(changing, constant). `rest` closes over
      no traced value, and values have derivatives in `constant` and in what the function closes
      over.

    Example:
      >>> import jax.numpy as jnp
      >>> from maml_jax.inner.split import split_known
      >>> a, b, w = jnp.ones((5, 4)), jnp.ones((4, 3)), jnp.ones((3, 2))
      >>> rest, values = split_known(lambda w, ab: ab[0] @ ab[1] @ w, w, (a, b))
      >>> [value.shape for value in values], rest(w, values).shape
      ([(5, 3)], (5, 2))
    """
    program, shapes = jax.make_jaxpr(function, return_shape=True)(changing, constant)
    known = [*program.consts, *jax.tree.leaves(constant)]
    leaves, structure = jax.tree.leaves(changing), jax.tree.structure(shapes)
    if not _known_flops(program.jaxpr, len(leaves)):
        number = len(program.consts)

        def whole(changing: PyTree, values: list[Array]) -> PyTree:
            given = [*jax.tree.leaves(changing), *values[number:]]
            outputs = jax.core.eval_jaxpr(program.jaxpr, values[:number], *given)
            return jax.tree.unflatten(structure, outputs)

        return whole, known

    def inlined(changing: list[Array], known: list[Array]) -> list[Any]:
        variables = [*program.jaxpr.invars[: len(changing)], *program.jaxpr.constvars]
        variables += program.jaxpr.invars[len(changing) :]
        values = dict(zip(variables, [*changing, *known], strict=True))
        return _evaluate(program.jaxpr.eqns, values, program.jaxpr.outvars)

    flat = jax.make_jaxpr(inlined)(leaves, known)
    jaxpr = flat.jaxpr
    inputs, others = jaxpr.invars[: len(leaves)], jaxpr.invars[len(leaves) :]
    before, after, read = _parts(jaxpr, inputs)
    at_start = dict(zip([*jaxpr.constvars, *others], [*flat.consts, *known], strict=True))

    def rest(changing: PyTree, values: list[Array]) -> PyTree:
        given = dict(zip([*inputs, *read], [*jax.tree.leaves(changing), *values], strict=True))
        return jax.tree.unflatten(structure, _evaluate(after, given, jaxpr.outvars))

    return rest, _evaluate(before, at_start, read)
