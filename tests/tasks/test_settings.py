"""Settings of tasks and data: every kind of bad value is refused, with what is allowed."""

import dataclasses

import pytest

from maml_jax.settings import check_value
from maml_jax.tasks.settings import DataSettings, TaskSettings

NAN, INFINITY = float("nan"), float("inf")
BAD = [
    (TaskSettings, "ways", 1, "2 or more"),
    (TaskSettings, "ways", 5.0, "give int"),
    (TaskSettings, "ways", NAN, "give int"),
    (TaskSettings, "shots", 0, "1 or more"),
    (TaskSettings, "shots", INFINITY, "give int"),
    (TaskSettings, "query_shots", 0, "1 or more"),
    (TaskSettings, "query_shots", True, "give int"),
    (TaskSettings, "oracle", 1, "give bool"),
    (TaskSettings, "name", None, "give str"),
    (DataSettings, "name", 3, "give str"),
    (DataSettings, "dir", None, "give str"),
    (DataSettings, "splits_dir", None, "give str"),
    (DataSettings, "cache_dir", None, "give str"),
    (DataSettings, "split", None, "give str"),
    (DataSettings, "split_seed", -1, "0 or more"),
    (DataSettings, "split_fractions", (0.5, 0.5), "three positive shares that add up to 1"),
    (DataSettings, "split_fractions", (0.5, 0.5, 0.0), "three positive shares"),
    (DataSettings, "split_fractions", (0.5, 0.2, 0.2), "three positive shares"),
    (DataSettings, "split_fractions", (0.5, 0.5, NAN), "three positive shares"),
    (DataSettings, "split_fractions", ("a", "b", "c"), "three positive shares"),
    (DataSettings, "split_fractions", [0.5, 0.2, 0.3], "give tuple"),
    (DataSettings, "class_depth", 0, "1 or more"),
    (DataSettings, "image_size", -1, "0 or more"),
    (DataSettings, "channels", 2, "0, 1 or 3"),
    (DataSettings, "invert", "true", "auto, yes, no"),
    (DataSettings, "min_images", 0, "1 or more"),
    (DataSettings, "deduplicate", True, "give str"),
    (DataSettings, "deduplicate", "on", "auto, yes, no"),
    (DataSettings, "follow_links", 1, "give bool"),
    (DataSettings, "rotation", "90", "none, per_class, new_classes"),
    (DataSettings, "mean", ("a",), "a tuple of finite numbers"),
    (DataSettings, "mean", (NAN,), "a tuple of finite numbers"),
    (DataSettings, "mean", (0.5, -INFINITY), "a tuple of finite numbers"),
    (DataSettings, "mean", (True,), "a tuple of finite numbers"),
    (DataSettings, "mean", 0.5, "give tuple"),
    (DataSettings, "std", (0.0,), "a tuple of positive numbers"),
    (DataSettings, "std", ("a",), "a tuple of positive numbers"),
    (DataSettings, "std", (NAN,), "a tuple of positive numbers"),
    (DataSettings, "std", (INFINITY,), "a tuple of positive numbers"),
    (DataSettings, "pool", "disk", "device, host"),
]
FIELDS = [
    (settings, field) for settings in (TaskSettings, DataSettings)
    for field in dataclasses.fields(settings)
]  # fmt: skip


def check(settings, name, value):
    (field,) = (f for f in dataclasses.fields(settings) if f.name == name)
    check_value(f"section.{name}", value, field.default, field.metadata["rule"])


@pytest.mark.parametrize(("settings", "name", "value", "allowed"), BAD)
def test_a_bad_value_is_named_with_what_is_allowed(settings, name, value, allowed):
    with pytest.raises(ValueError, match=f"section.{name}=") as error:
        check(settings, name, value)
    assert allowed in str(error.value)
    assert repr(value) in str(error.value)


def test_every_setting_is_tested_with_a_bad_value():
    assert {(settings, field.name) for settings, field in FIELDS} == {bad[:2] for bad in BAD}


@pytest.mark.parametrize(("settings", "field"), FIELDS)
def test_defaults_are_allowed_and_explained(settings, field):
    check(settings, field.name, field.default)
    assert field.metadata["help"]


@pytest.mark.parametrize("values", [(), (0,), (0.5, 1, 2.0)])
def test_a_mean_has_any_finite_numbers(values):
    check(DataSettings, "mean", values)
