"""Settings: a default, a help text and a rule in one place, as fields of frozen dataclasses.

Every part of the package declares its settings beside the code that uses them. A config has one
section for each of these classes; `maml_jax.run.config.resolve` turns a config into instances.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from maml_jax.registry import Registry

_MOST = 2**31 - 1  # int32
_SMALLEST, _GREATEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


class Rule(NamedTuple):
    """Which values are allowed."""

    holds: Callable[[Any], bool]
    allowed: Callable[[], str]  # completes "use ..."; called late, as registries grow
    largest: int = _MOST  # of integers
    hint: str = ""  # follows what is allowed in messages


def setting(default: Any, help: str, rule: Rule | None = None) -> Any:
    """A field of a settings dataclass; the type of its default is the type of its values."""
    return dataclasses.field(default=default, metadata={"help": help, "rule": rule})


def check_settings_class(settings: type | None) -> None:
    """Checks that a class can be a section of a config.

    Raises:
      ValueError: it is no frozen dataclass, or one of its fields was not made by `setting`.
    """
    if settings is None:
        return
    if not (isinstance(settings, type) and dataclasses.is_dataclass(settings)):
        raise ValueError(f"settings={settings!r} is no dataclass; decorate it with @dataclass")
    plain = [field.name for field in dataclasses.fields(settings) if "rule" not in field.metadata]
    if plain:
        raise ValueError(
            f"the field {plain[0]!r} of {settings.__name__} has no help text; write "
            f'{plain[0]} = setting(DEFAULT, "help"), see maml_jax.settings.setting'
        )


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
        hint="; one of your own needs --import=MODULE" if isinstance(names, Registry) else "",
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


def _unfit(number: Any, largest: int) -> str:
    """Why a number has no faithful form in float32 or int32; empty if it has one."""
    if isinstance(number, float):
        if not math.isfinite(number):
            return "is not finite"
        if number and not _SMALLEST <= abs(number) <= _GREATEST:
            return "is out of the range of float32"
    if isinstance(number, int) and not -_MOST <= number <= largest:
        return "is out of the range of its integer type"
    return ""


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
    allowed = rule.allowed() if rule else "another number"
    for number in value if expected is tuple else (value,):
        if problem := _unfit(number, rule.largest if rule else _MOST):
            raise ValueError(f"{key}={value!r} {problem}; use {allowed}")
    if rule is not None and not rule.holds(value):
        raise ValueError(f"{key}={value!r} is not allowed; use {allowed}{rule.hint}")
