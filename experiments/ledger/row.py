"""A row of the ledger: a published number, and the run that is to reach it."""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from maml_jax.run.config import FREE_KEYS, default_config, flatten, resolve
from maml_jax.run.formats import plural
from maml_jax.run.spec import RunSpec
from maml_jax.run.unused import unused_keys
from maml_jax.run.workdir import EVALUATED_WITH

Overrides = Mapping[str, Any]  # dotted config key -> value
_MACHINE_KEYS = ("data.dir", "data.splits_dir", "data.cache_dir", "cpu_devices")
_SMOKE: dict[str, Any] = {  # what makes a run end within seconds
    "num_meta_steps": 2,
    "meta_batch_size": 2,
    "steps_per_dispatch": 1,
    "log_every": 1,
    "checkpoint.every": 1,
    "eval.num_episodes": 4,
    "eval.chunk": 4,
    "eval.validation_every": 1,
    "eval.validation_episodes": 2,
    "model.filters": 4,
    "model.hidden": (8,),
}
_SMOKE_IMAGES = {"data.name": "glyphs", "task.query_shots": 1, "eval.query_shots": 1}
_SMOKE_STEPS = 2  # most inner steps, unless a published number is that of another step


class Published(NamedTuple):
    """A published number."""

    value: float  # an accuracy in %, or a loss
    ci95: float | None = None  # half-width of its interval; None if none is published
    step: int = -1  # the inner step after which it was measured
    over: str = "tasks"  # of the interval: tasks, or runs, as of MAML++, BOIL and Reptile

    @property
    def text(self) -> str:
        """As it is printed."""
        return f"{self.value:g}" if self.ci95 is None else f"{self.value:g} ± {self.ci95:g}"


@dataclasses.dataclass(frozen=True)
class Row:
    """A published number, and how it is reproduced.

    Attributes:
      paper: method and authors of the row.
      text: what is measured.
      card: module of configs/ and variant, as "omniglot:5way_1shot_paper".
      published: the numbers; empty if none is published for this run.
      source: the table that was read.
      overrides: of the card's config.
      parameters: which parameters are tested: last, selected (the best in validation) or ensemble.
      run_of: the row whose runs are tested; empty for runs of its own.
      evaluation: keys of the config's `eval` section for a test of another row's runs.
      variant_of: the row with the published recipe that this one deviates from.
      deviations: what differs from the published recipe, or is not known of it.
      needs: data that cannot be had without a licence of your own.
      steps: inner steps whose numbers are shown; -1 is the last one.
      cpu_minutes: estimated time of one seed on two CPU cores; 0 if there is no estimate.
      gpu_minutes: the same on an H100.
    """

    paper: str
    text: str
    card: str
    published: tuple[Published, ...] = ()
    source: str = ""
    overrides: Overrides = dataclasses.field(default_factory=dict)
    parameters: str = "last"
    run_of: str = ""
    evaluation: Overrides = dataclasses.field(default_factory=dict)
    variant_of: str = ""
    deviations: str = ""
    needs: str = ""
    steps: tuple[int, ...] = (-1,)
    cpu_minutes: float = 0.0
    gpu_minutes: float = 0.0

    @property
    def command_card(self) -> str:
        """The card as --config takes it."""
        module, _, variant = self.card.partition(":")
        return f"configs/{module}.py" + (f":{variant}" if variant else "")

    @property
    def flags(self) -> str:
        """What experiments.train takes to train the row."""
        keys = [f"--config.{key}={of}" for key, of in self.overrides.items()]
        return " ".join([f"--config={self.command_card}", *keys])

    def with_data(self, data: str) -> "Row":
        """The row with its data in another place, if they are of this kind, as KIND:PATH."""
        kind = self.config().data.name.partition(":")[0]
        if not self.needs or data.partition(":")[0] != kind:
            return self
        return dataclasses.replace(self, overrides={**self.overrides, "data.name": data})

    def config(self, seed: int = 0) -> ConfigDict:
        """The config of a run with this seed."""
        module, _, variant = self.card.partition(":")
        config = importlib.import_module(f"configs.{module}").get_config(variant)
        config.update_from_flattened_dict({**self.overrides, "seed": seed})
        return ConfigDict(config.to_dict())

    def smoke_config(self, seed: int = 0) -> ConfigDict:
        """The same in a few seconds, and without any data."""
        config = self.config(seed)
        tiny = _SMOKE | (_SMOKE_IMAGES if config.task.name == "images" else {})
        steps = max([_SMOKE_STEPS, *(of.step for of in self.published)])
        for key in ("inner.num_steps", "eval.num_steps"):
            tiny[key] = min(dict(flatten(config))[key], steps)
        config.update_from_flattened_dict(tiny)
        return config

    def tested(self) -> RunSpec:
        """The typed config of the runs, with the settings that they are tested with."""
        config = self.config()
        config.eval.update(self.evaluation)
        return resolve(config)


def portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as plain JSON has it, without what names a folder of this machine."""
    defaults = dict(flatten(default_config()))
    values = dict(flatten(dict(config)))
    values |= {key: defaults[key] for key in _MACHINE_KEYS}
    values["data.name"] = values["data.name"].partition(":")[0]
    plain: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        of = plain.setdefault(section, {}) if section else plain
        of[name] = list(value) if isinstance(value, tuple) else value
    return plain


def _effective(config: ConfigDict) -> dict[str, Any]:
    """Key -> value with every "auto" replaced, of the keys that matter to the training."""
    spec = resolve(config)
    values = dict(flatten(dataclasses.asdict(spec)))
    dropped = {*unused_keys(spec, values), "seed", *FREE_KEYS}
    values["data.name"] = values["data.name"].partition(":")[0]
    return {key: of for key, of in values.items() if not {key, key.partition(".")[0]} & dropped}


def conflicts(config: ConfigDict, other: ConfigDict) -> list[str]:
    """What makes runs of two configs no seeds of one row: "key: old -> new"."""
    before, after = _effective(config), _effective(other)
    return [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def differences_of_tests(row: Row, other: Row) -> list[str]:
    """What the tests of two rows differ in: "eval.KEY: old -> new"."""
    before, after = row.tested().eval, other.tested().eval
    return [
        f"eval.{key}: {getattr(before, key)} -> {getattr(after, key)}"
        for key in EVALUATED_WITH
        if getattr(before, key) != getattr(after, key)
    ]


def protocol(row: Row) -> str:
    """What is trained and tested, in a sentence."""
    spec = row.tested()
    task, test = spec.task, spec.eval
    parts = [plural(spec.num_meta_steps, "meta-step"), plural(spec.meta_batch_size, "task")]
    sizes = f"{parts[0]} of {parts[1]}"
    if task.name == "images":
        sizes += f", {plural(task.query_shots, 'query image')} of a class"
        if test.query_shots != task.query_shots:
            sizes += f" ({test.query_shots} at test)"
    else:
        sizes += f" with {task.shots} + {task.query_shots} points"
    steps = (
        f"{plural(spec.train_steps, 'inner step')} of {spec.inner.step_size:g} in "
        f"training, {test.num_steps} at test"
    )
    return f"{sizes}; {steps}; {plural(test.num_episodes, 'test task')}"
