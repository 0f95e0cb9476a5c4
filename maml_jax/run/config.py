"""The config of a run: its keys, and how it becomes a typed and checked `RunSpec`.

Keys, defaults, rules and help texts are the fields of the settings classes, each of which is a
section of the config. ml_collections is used at the edge only: cards, flags and config.json.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from maml_jax.errors import UnknownSectionError, UsageError
from maml_jax.inner.optimizers.registry import INNER_OPTIMIZERS
from maml_jax.models.registry import MODELS
from maml_jax.run.algorithms import ALGORITHMS, AUTO, UNSET
from maml_jax.run.problems import TASKS
from maml_jax.run.spec import BASELINES, RunSpec, check_spec
from maml_jax.run.unused import check_unused, unused_keys
from maml_jax.settings import Rule, check_value, one_of

# Keys that may change between two calls on one workdir: they do not alter the trained parameters.
FREE_KEYS = (
    "eval",
    "data.dir",
    "data.splits_dir",
    "data.cache_dir",
    "checkpoint",
    "cpu_devices",
    "log_every",
    "baselines",
)
# Keys and sections of version 0.1 -> their names today.
RENAMED = {
    "halting": "lengths",
    "inner.learning_rate": "inner.step_size",
    "inner.rates": "inner.step_sizes",
    "outer.halting_from": "outer.lengths_from",
    "outer.halting_learning_rate": "outer.lengths_learning_rate",
    "outer.rates_learning_rate": "outer.step_sizes_learning_rate",
    "references": "baselines",
}


def _sections() -> dict[str, type]:
    """Section -> settings class, those of registered tasks and models included."""
    sections = {
        field.name: type(field.default)
        for field in dataclasses.fields(RunSpec)
        if dataclasses.is_dataclass(field.default)
    }
    own: dict[str, type] = {}
    taken = {field.name for field in dataclasses.fields(RunSpec)}
    entries = [(name, task.settings) for name, task in TASKS.items()]
    entries += [(name, model.settings) for name, model in MODELS.items()]
    for name, settings in entries:
        if settings is None:
            continue
        if name in taken | own.keys():
            raise UsageError(
                f"a task or model with settings is registered as {name!r}, which is a key of every "
                "config or another entry's section; register it under another name"
            )
        own[name] = settings
    return sections | own


def _fields() -> dict[str, dataclasses.Field[Any]]:
    """Key -> field, of all sections."""
    found = {f.name: f for f in dataclasses.fields(RunSpec) if "rule" in f.metadata}
    for section, settings in _sections().items():
        found |= {f"{section}.{f.name}": f for f in dataclasses.fields(settings)}
    return found


def default_config() -> ConfigDict:
    """Few-shot sinusoid regression; configs/ holds the cards."""
    values: dict[str, Any] = {section: {} for section in _sections()}
    for key, field in _fields().items():
        section, _, name = key.rpartition(".")
        (values[section] if section else values)[name] = field.default
    return ConfigDict(values)


def rule_of(key: str, field: dataclasses.Field[Any]) -> Rule | None:
    """What a key allows; None: anything of its type."""
    if key == "task.name":  # its settings class does not know the table of tasks
        return one_of(TASKS)
    rule: Rule | None = field.metadata["rule"]
    return rule


def describe_keys(config: ConfigDict | None = None) -> str:
    """All keys, one a line: KEY=VALUE of the config or by default, help, and what is allowed."""
    values = dict(flatten(config)) if config is not None else {}
    lines = []
    for key, field in _fields().items():
        rule, value = rule_of(key, field), values.get(key, field.default)
        allowed = f" ({rule.allowed()})" if rule else ""
        lines.append(f"--config.{key}={value!r}: {field.metadata['help']}{allowed}")
    return "\n".join(lines)


def flatten(config: ConfigDict | dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of every leaf."""
    for key, value in config.items():
        if isinstance(value, ConfigDict | dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def renamed(key: str) -> str | None:
    """Today's name of a key of version 0.1; None if it is not one."""
    section, _, name = key.partition(".")
    return RENAMED.get(key) or (f"{RENAMED[section]}.{name}" if section in RENAMED else None)


def check_key(key: str) -> None:
    """Raises a UsageError that gives the new or the nearest name if `key` is unknown."""
    known = list(_fields())
    if key in known:
        return
    if new := renamed(key):
        raise UsageError(f"unknown config key {key!r}; it is called {new} now")
    section, _, last = key.rpartition(".")
    near = [name for name in known if name.rpartition(".")[2] == last]
    near = near or difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    hint = f"did you mean {' or '.join(near)}?" if near else "--help lists the keys"
    if section and section not in _sections():
        hint += f"; if a module of your own adds the section {section!r}, use --import=MODULE"
        raise UnknownSectionError(f"unknown config key {key!r}; {hint}")
    raise UsageError(f"unknown config key {key!r}; {hint}")


def resolve(config: ConfigDict) -> RunSpec:
    """Checks every key, type and value, and replaces "auto" and what follows other keys.

    Raises:
      UsageError: names the key, its value and what is allowed.
    """
    values, fields = dict(flatten(config)), _fields()
    for key in values:
        check_key(key)
    try:
        for key, field in fields.items():
            if key not in values:
                raise ValueError(f"the config lacks the key {key!r}; start from default_config()")
            check_value(key, values[key], field.default, rule_of(key, field))
        spec = _with_automatic(_from_values(values))
        # A card sets keys of its network, which another network may replace: see `check_given`.
        check_unused(spec, (key for key in _changed(values) if not key.startswith("model.")))
        check_spec(spec)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return spec


def check_given(config: ConfigDict, given: Iterable[str]) -> None:
    """Checks keys that a user has set one by one.

    Raises:
      UsageError: the config is wrong, or one of them has no effect.
    """
    spec = resolve(config)
    try:
        check_unused(spec, _changed(dict(flatten(config))) & set(given))
    except ValueError as error:
        raise UsageError(str(error)) from error


def _changed(values: Mapping[str, Any]) -> set[str]:
    """Keys with another value than the default."""
    return {key for key, field in _fields().items() if values[key] != field.default}


def _from_values(values: Mapping[str, Any]) -> RunSpec:
    sections: dict[str, Any] = {}
    for section, settings in _sections().items():
        names = [field.name for field in dataclasses.fields(settings)]
        sections[section] = settings(**{name: values[f"{section}.{name}"] for name in names})
    built_in = {field.name for field in dataclasses.fields(RunSpec)}
    own = {section: sections.pop(section) for section in list(sections) if section not in built_in}
    plain = {key: v for key, v in values.items() if key in built_in}
    return RunSpec(**plain, **sections, own=own)


def _with_automatic(spec: RunSpec) -> RunSpec:
    for key, automatic in {**AUTO, **spec.entry.settings}.items():
        if _value(spec, key) == UNSET.get(key, "auto"):
            section, _, name = key.partition(".")
            value = automatic(spec) if callable(automatic) else automatic
            changed = dataclasses.replace(getattr(spec, section), **{name: value})
            spec = dataclasses.replace(spec, **{section: changed})
    return spec


def _value(spec: RunSpec, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(spec, section), name)


def completed(config: ConfigDict) -> ConfigDict:
    """A config with the numbers and names of all keys that follow other ones.

    A run keeps these, so that it does not change when the keys do that may change.
    """
    spec, full = _with_automatic(_from_values(dict(flatten(config)))), ConfigDict(config.to_dict())
    followers = UNSET.keys() - unused_keys(spec, UNSET)
    full.update_from_flattened_dict({key: _value(spec, key) for key in followers})
    return full


def without_unused(config: ConfigDict) -> ConfigDict:
    """A config with the defaults of keys that do not matter, which older versions did not check."""
    fields, clean = _fields(), ConfigDict(config.to_dict())
    unused = _effective(config.to_dict())[1]
    clean.update_from_flattened_dict({key: fields[key].default for key in unused})
    return clean


def baseline_config(config: ConfigDict, name: str) -> ConfigDict:
    """The config of a baseline trained beside the run: all but algorithm and inputs the same."""
    baseline = ConfigDict(config.to_dict())
    baseline.update_from_flattened_dict(BASELINES[name])
    baseline.baselines, baseline.init_from = (), ""
    baseline.inner.learn_optimizer = "none"
    baseline.lengths.cost_weight = baseline.lengths.budget = 0.0
    if "matrices" in INNER_OPTIMIZERS[baseline.inner.optimizer].hyper:
        baseline.inner.optimizer = "sgd"  # which it is while its matrices are not learned
    baseline.inner.first_order_until = 0
    baseline.update_from_flattened_dict({key: "auto" for key in AUTO if key not in UNSET})
    baseline.outer.schedule = config.outer.schedule
    return baseline


def differences(
    new: dict[str, Any], old: dict[str, Any], free: tuple[str, ...] = FREE_KEYS
) -> list[str]:
    """Keys whose values differ: "key: old -> new"; free ones and those that do not matter apart.

    What an older config lacks has its default, as in JSON, which knows no tuples.
    """
    (before, old_unused), (after, new_unused) = map(_effective, (old, new))
    return [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if not any(key == name or key.startswith(f"{name}.") for name in free)
        and before.get(key) != after.get(key)
        and not (key in old_unused and key in new_unused)
    ]


def _effective(config: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """The values, as JSON has them, with those of keys that follow others; unused keys."""
    values = {key: field.default for key, field in _fields().items()} | dict(flatten(config))
    values = {key: list(of) if isinstance(of, tuple) else of for key, of in values.items()}
    try:
        spec = _with_automatic(_from_values(values))
    except (ValueError, TypeError, ArithmeticError):  # values that `resolve` refuses
        return values, set()
    return values | {key: _value(spec, key) for key in UNSET}, unused_keys(spec, values)


def resume_conflicts(new: dict[str, Any], old: dict[str, Any]) -> list[str]:
    """What keeps a run of the config `old` from being continued with `new`: keys that differ.

    Free keys may differ, and more meta-steps are allowed where no schedule depends on their number.
    """
    key = "num_meta_steps"
    if not new[key] > old.get(key, new[key]):
        return differences(new, old)
    schedule = _schedule(dict(flatten(new)))
    if not schedule:
        return differences(new, old, (*FREE_KEYS, key))
    return [
        f"{change}, on which {schedule} depends" if change.startswith(f"{key}: ") else change
        for change in differences(new, old)
    ]


def _schedule(values: Mapping[str, Any]) -> str:
    """A setting that depends on the number of meta-steps; empty if none does."""
    auto = {**AUTO, **ALGORITHMS.find(values["algorithm"]).settings}
    schedule, gate = (
        auto[key] if values[key] == "auto" else values[key]
        for key in ("outer.schedule", "lengths.gate")
    )
    if schedule != "constant":
        return f"outer.schedule={schedule!r}"
    last = values["lengths.final_temperature"]
    if gate != "none" and last != values["lengths.temperature"]:
        return f"lengths.final_temperature={last}"
    return ""
