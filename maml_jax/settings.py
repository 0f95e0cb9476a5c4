"""Settings: a default, a help text and a rule in one place, as fields of frozen dataclasses.

Every part of the package declares its settings beside the code that uses them. A config has one
section for each of these classes; `maml_jax.run.config.resolve` turns a config into instances.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """Which values are allowed."""

    holds: Callable[[Any], bool]
    allowed: Callable[[], str]  # completes "use ..."; called late, as registries grow


def setting(default: Any, help: str, rule: Rule | None = None) -> Any:
    """A field of a settings dataclass; the type of its default is the type of its values."""
    return dataclasses.field(default=default, metadata={"help": help, "rule": rule})


def at_least(low: float) -> Rule:
    """Numbers from `low` on."""
    return Rule(lambda value: value >= low, lambda: f"{low} or more")


def positive() -> Rule:
    """Numbers above 0."""
    return Rule(lambda value: value > 0, lambda: "a positive number")


def between(low: float, high: float, *, with_low: bool = True) -> Rule:
    """Numbers from `low` (or above it) to below `high`."""
    return Rule(
        lambda value: (low <= value if with_low else low < value) and value < high,
        lambda: f"{low} or more, below {high}" if with_low else f"more than {low}, below {high}",
    )


def one_of(names: Collection[str], *more: str) -> Rule:
    """Names out of a collection, which may be a registry, and some more."""
    return Rule(
        lambda value: value in more or value in names,
        lambda: "one of " + ", ".join([*more, *names]),
    )


def each(
    holds: Callable[[Any], bool], allowed: str, *, lengths: Collection[int] | None = None
) -> Rule:
    """Tuples of such elements, of one of these lengths."""

    def all_hold(value: Sequence[Any]) -> bool:
        return (lengths is None or len(value) in lengths) and all(map(holds, value))

    return Rule(all_hold, lambda: allowed)


def is_number(value: Any) -> bool:
    """Whether the value is a finite real number, and not a bool."""
    return type(value) in (int, float) and math.isfinite(value)


def check_value(key: str, value: Any, default: Any, rule: Rule | None) -> None:
    """Checks one value.

    Raises:
      ValueError: names the key, the value and what is allowed.
    """
    expected = type(default)
    if type(value) is not expected and not (expected is float and type(value) is int):
        raise ValueError(
            f"{key}={value!r} is of type {type(value).__name__}; give {expected.__name__}"
        )
    numbers = value if expected is tuple else (value,)
    if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
        raise ValueError(
            f"{key}={value!r} is not finite; use {rule.allowed() if rule else 'a number'}"
        )
    if rule is not None and not rule.holds(value):
        raise ValueError(f"{key}={value!r} is not allowed; use {rule.allowed()}")
