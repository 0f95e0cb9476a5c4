"""An inner loop that runs in several calls equals one that runs in a single call."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import pytest

from tests.inner.problems import (
    CROSS,
    OPTIMIZERS,
    adapt,
    assert_close,
    assert_moves,
    float64,  # noqa: F401, a fixture
    meta_params,
    noisy_loss,
    regression_data,
    regression_loss,
    toy_gates,
)
from tests.marks import slow_but

CASES = [(*case, (1, 2)) for case in CROSS if case[0] == "heavy_ball"]
CASES += [("heavy_ball", "exact", cuts) for cuts in [(0, 3), (1, 1, 1)]]


def in_pieces(run, steps):
    """Adapts by steps[0], then steps[1], …, and joins the results."""
    pieces, start, carry = [], 0, None
    for number in steps:
        pieces.append(run(num_steps=number, start=start, carry=carry))
        start, carry = start + number, pieces[-1].carry

    def join(*leaves):
        return jnp.concatenate(leaves)

    first, *later = [p.monitored for p in pieces]
    later = [jax.tree.map(lambda leaf: leaf[1:], watched) for watched in later]
    seen = jax.tree.map(join, *[(p.losses, p.gates_on, p.aux) for p in pieces])
    losses, gates_on, aux = seen
    return pieces[-1]._replace(
        losses=losses, gates_on=gates_on, aux=aux, monitored=jax.tree.map(join, first, *later)
    )


@cache
def run_in_pieces(name, meta_gradient, steps):
    """Returns ((sum of query losses, Adaptation), meta-gradient)."""
    support, query = regression_data(0), regression_data(1)

    def sum_of_losses(meta):
        run = partial(
            adapt, noisy_loss, OPTIMIZERS[name], meta, support, jax.random.key(7),
            gates=toy_gates, meta_gradient=meta_gradient,
            monitor=lambda p, k: (k, regression_loss(p, query, None)[0]),
        )  # fmt: skip
        adaptation = in_pieces(run, steps)
        return jnp.sum(adaptation.monitored[1]), adaptation

    meta = meta_params(name, per_tensor=True)
    return jax.jit(jax.value_and_grad(sum_of_losses, has_aux=True))(meta)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("name", "meta_gradient", "steps"), slow_but(CASES[:2], CASES))
def test_several_calls_equal_one(name, meta_gradient, steps):
    """In value, gradient, losses, aux and monitored values, with a loss that uses its key."""
    whole = run_in_pieces(name, meta_gradient, (3,))
    assert_close(run_in_pieces(name, meta_gradient, steps), whole)
    assert_moves((whole[1].init, whole[1].step_sizes, whole[1].lengths))
