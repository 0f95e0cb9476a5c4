"""Inner products in low precision, and which numbers the check of arguments refuses."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from maml_jax.inner.optimizers.tree_math import check_numbers, dot
from maml_jax.settings import at_least
from tests.inner.problems import assert_close


def test_inner_products_of_bfloat16_are_summed_in_float32() -> None:
    x = {"w": jnp.full(1000, 1.0078125, jnp.bfloat16)}
    assert dot(x, x).dtype == jnp.float32
    assert_close(dot(x, x), 1000 * 1.0078125**2, rtol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), np.float32("inf")])
def test_numbers_that_are_not_finite_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=f"size={value} is not finite; use -9 or more"):
        check_numbers(at_least(-9), size=value)


@pytest.mark.parametrize("value", [-1, -0.5, np.float32(-1), np.int64(-1)])
def test_numbers_out_of_range_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=f"size={value} is not allowed; use 0 or more"):
        check_numbers(at_least(0), fine=1, size=value)


def test_arrays_are_not_checked() -> None:
    check_numbers(at_least(0), size=jnp.array(-1.0), tree={"w": jnp.array([-1.0])})
