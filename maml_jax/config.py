"""The keys of a run, their defaults, and what values are allowed."""

import copy
import difflib
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from maml_jax.algorithms import ALGORITHMS, AUTO
from maml_jax.errors import UsageError
from maml_jax.inner.gradients import META_GRADIENTS
from maml_jax.inner.groups import GRANULARITIES
from maml_jax.inner.halting import GATES
from maml_jax.inner.learning_rates import RATES
from maml_jax.inner.optimizers import INNER_OPTIMIZERS, get_inner_optimizer
from maml_jax.models.conv4 import HEAD_INITIALIZERS
from maml_jax.models.convolution import CONVOLUTIONS
from maml_jax.models.mlp import INITIALIZERS
from maml_jax.models.normalization import NORMALIZATIONS
from maml_jax.tasks.episodes import ROTATIONS
from maml_jax.tasks.splits import FRACTIONS

OUTER_OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine")
OBJECTIVES = ("final", "multi_step")
COSTS = ("length", "compute")
TASKS = {"sinusoid": ("mlp",), "images": ("conv4", "mlp", "resnet12")}  # task -> models that fit
POOLS = ("device", "host")
INVERT = ("auto", "yes", "no")
REFERENCES: dict[str, dict[str, Any]] = {
    "pretrained": {"algorithm": "pretrained"},
    "oracle": {"algorithm": "pretrained", "task.oracle": True},
}
# Keys that may change between two calls on one workdir: they do not alter the trained parameters.
FREE_SECTIONS = (
    "eval",
    "data.dir",
    "data.splits_dir",
    "data.cache_dir",
    "checkpoint",
    "cpu_devices",
    "log_every",
    "references",
)


_DEFAULTS: dict[str, Any] = {
    "algorithm": "maml",
    "seed": 0,
    "num_meta_steps": 20_000,
    "meta_batch_size": 25,
    "tasks_per_chunk": 0,  # tasks of a device at once, at most; 0: what is fastest on the backend
    "cpu_devices": 0,  # that a CPU is split into; 0: what is fastest
    "steps_per_dispatch": 500,
    "log_every": 500,
    "references": (),  # baselines trained into workdir/NAME beside the run
    "task": {
        "name": "sinusoid",
        "ways": 5,  # classes of an episode; not of the sinusoid
        "shots": 10,  # support examples of a class, or points of a sinusoid
        "query_shots": 10,
        "oracle": False,  # the sinusoid's network sees amplitude and phase
    },
    "data": {  # of task.name = images
        "name": "glyphs",
        "dir": "",  # TFDS' folder; empty: TFDS_DATA_DIR, else TFDS' default
        "splits_dir": "",  # empty: MAML_JAX_SPLITS_DIR, else `splits` beside dir
        "cache_dir": "",  # empty: MAML_JAX_CACHE_DIR, else ~/.cache/maml_jax
        "split": "",  # of the classes; empty: the data set's default
        "split_seed": 0,
        "split_fractions": FRACTIONS,  # train, val, test: of data that have no split of their own
        "image_size": 0,  # 0: the data's own
        "channels": 0,  # 1 gray, 3 RGB; 0: the data's own
        "invert": "auto",  # 255 - pixel; auto: of Omniglot alone
        "min_images": 1,  # classes with fewer are left out
        "rotation": "none",
        "mean": (),  # per channel, of pixels / 255; empty: not subtracted
        "std": (),
        "pool": "device",  # host: training images stay in host memory
    },
    "model": {
        "name": "mlp",
        "hidden": (40, 40),  # of mlp
        "kernel_init": "truncated_normal_0.01",  # of mlp
        "filters": 64,  # of conv4
        "widths": (64, 128, 256, 512),  # of resnet12's blocks
        "max_pool": False,  # of conv4: pooling instead of strides
        "head_init": "auto",  # of conv4; auto: as published
        "normalization": "none",
        "convolution": "auto",  # auto: what is fastest on the backend
    },
    "inner": {
        "num_steps": 1,  # K
        "optimizer": "sgd",
        "learning_rate": 0.01,  # α
        "momentum": 0.9,  # of heavy_ball and nesterov; where it starts, if it is learned
        "inverse_condition": 0.1,  # μ/L of chebyshev and nesterov_strongly_convex, with L = 1/α
        "learn_optimizer": "none",  # else granularity of a learned momentum; global for the rest
        "meta_gradient": "auto",  # auto, here and below: the algorithm's own
        "rates": "auto",  # fixed, or what is learned; learning_rate is where they start
        "proximal": 2.0,  # λ of imaml
        "cg_steps": 5,  # of imaml
        "first_order_until": 0,  # meta-steps with inner gradients held constant, before the rest
    },
    "halting": {
        "gate": "auto",
        "granularity": "auto",
        "initial_length": -1.0,  # in [0, K]; -1: K / 2
        "temperature": 1.0,  # of the gates that have one, in steps
        "final_temperature": 1.0,  # reached geometrically at the last meta-step
        "cost": "length",  # length: mean length / K; compute: inner FLOPs / those of K full steps
        "cost_weight": 0.0,
        "budget": 0.0,  # 0: none; else a dual variable holds the cost at this share
        "dual_rate": 0.01,
    },
    "outer": {
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "halting_learning_rate": 0.0,  # 0: 0.05 for lengths, 0.0075 for logits
        "halting_from": 0,  # meta-step from which on lengths are learned
        "rates_learning_rate": 1e-3,
        "optimizer_learning_rate": 1e-2,  # of learned hyper-parameters of the inner optimizer
        "schedule": "auto",
        "weight_decay": 0.0,  # of the initialization, with adamw
        "clip": 0.0,  # 0: no clipping; else gradient elements to ±clip
        "clip_norm": 0.0,  # 0: no clipping; else the gradient's L2 norm
        "task_clip_norm": 0.0,  # 0: no clipping; else that of every task's own gradient
        "objective": "auto",
        "multi_step_anneal": 10_000,  # meta-steps
        "max_nonfinite": 100,  # skipped updates after which the run stops
    },
    "eval": {
        "num_episodes": 2_000,
        "shots": 5,
        "query_shots": 100,
        "num_steps": 10,
        "chunk": 100,
        "validation_every": 0,  # meta-steps; 0: the last parameters alone are tested
        "validation_episodes": 300,
    },
    "checkpoint": {"every": 5_000, "keep": 2},
}


def default_config() -> ConfigDict:
    """Few-shot sinusoid regression; configs/ holds the cards."""
    return ConfigDict(copy.deepcopy(_DEFAULTS))


def _is_one_of(names: Any) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: value in names), "one of " + ", ".join(names)


_AT_LEAST_0 = (lambda value: value >= 0), "0 or more"
_AT_LEAST_1 = (lambda value: value >= 1), "1 or more"
_POSITIVE = (lambda value: 0 < value < float("inf")), "a positive number"

_ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "algorithm": _is_one_of(ALGORITHMS),
    "seed": ((lambda value: 0 <= value < 2**32), "0 to 2^32 - 1"),
    "num_meta_steps": _AT_LEAST_1,
    "meta_batch_size": _AT_LEAST_1,
    "tasks_per_chunk": _AT_LEAST_0,
    "cpu_devices": _AT_LEAST_0,
    "steps_per_dispatch": _AT_LEAST_1,
    "log_every": _AT_LEAST_1,
    "references": (
        (lambda value: set(value) <= set(REFERENCES)),
        "a tuple of names out of " + ", ".join(REFERENCES),
    ),
    "task.name": _is_one_of(TASKS),
    "task.ways": ((lambda value: value >= 2), "2 or more"),
    "task.shots": _AT_LEAST_1,
    "task.query_shots": _AT_LEAST_1,
    "data.rotation": _is_one_of(ROTATIONS),
    "data.pool": _is_one_of(POOLS),
    "data.image_size": _AT_LEAST_0,
    "data.channels": ((lambda value: value in (0, 1, 3)), "0, 1 or 3"),
    "data.invert": _is_one_of(INVERT),
    "data.min_images": _AT_LEAST_1,
    "data.split_fractions": (
        (lambda value: len(value) == 3 and min(value) > 0 and abs(sum(value) - 1) < 1e-6),
        "three positive shares that add up to 1",
    ),
    "data.std": ((lambda value: all(v > 0 for v in value)), "a tuple of positive numbers"),
    "data.split_seed": _AT_LEAST_0,
    "model.name": _is_one_of(("mlp", "conv4", "resnet12")),
    "model.widths": (
        (lambda value: len(value) == 4 and all(isinstance(w, int) and w > 0 for w in value)),
        "a tuple of four positive widths",
    ),
    "model.filters": _AT_LEAST_1,
    "model.head_init": _is_one_of(("auto", *HEAD_INITIALIZERS)),
    "model.normalization": _is_one_of(("none", *NORMALIZATIONS)),
    "model.convolution": _is_one_of(("auto", *CONVOLUTIONS)),
    "model.hidden": (
        (lambda value: all(isinstance(width, int) and width > 0 for width in value)),
        "a tuple of positive widths",
    ),
    "model.kernel_init": _is_one_of(INITIALIZERS),
    "inner.num_steps": _AT_LEAST_0,
    "inner.optimizer": _is_one_of(INNER_OPTIMIZERS),
    "inner.learning_rate": _POSITIVE,
    "inner.momentum": ((lambda value: 0 <= value < 1), "0 or more, below 1"),
    "inner.inverse_condition": ((lambda value: 0 < value < 1), "more than 0, below 1"),
    "inner.learn_optimizer": _is_one_of(("none", *GRANULARITIES)),
    "inner.meta_gradient": _is_one_of(("auto", *META_GRADIENTS)),
    "inner.rates": _is_one_of(("auto", *RATES)),
    "inner.proximal": _POSITIVE,
    "inner.cg_steps": _AT_LEAST_1,
    "inner.first_order_until": _AT_LEAST_0,
    "halting.gate": _is_one_of(("auto", "none", *GATES)),
    "halting.granularity": _is_one_of(("auto", *GRANULARITIES)),
    "halting.initial_length": ((lambda value: value == -1 or value >= 0), "0 to K, or -1"),
    "halting.temperature": _POSITIVE,
    "halting.final_temperature": _POSITIVE,
    "halting.cost": _is_one_of(COSTS),
    "halting.cost_weight": _AT_LEAST_0,
    "halting.budget": ((lambda value: 0 <= value < 1), "0 (none) or more, below 1"),
    "halting.dual_rate": _POSITIVE,
    "outer.halting_learning_rate": _AT_LEAST_0,
    "outer.halting_from": _AT_LEAST_0,
    "outer.rates_learning_rate": _POSITIVE,
    "outer.optimizer_learning_rate": _POSITIVE,
    "outer.optimizer": _is_one_of(OUTER_OPTIMIZERS),
    "outer.learning_rate": _POSITIVE,
    "outer.schedule": _is_one_of(("auto", *SCHEDULES)),
    "outer.weight_decay": _AT_LEAST_0,
    "outer.clip": _AT_LEAST_0,
    "outer.clip_norm": _AT_LEAST_0,
    "outer.task_clip_norm": _AT_LEAST_0,
    "outer.objective": _is_one_of(("auto", *OBJECTIVES)),
    "outer.multi_step_anneal": _AT_LEAST_1,
    "outer.max_nonfinite": _AT_LEAST_0,
    "eval.num_episodes": _AT_LEAST_1,
    "eval.shots": _AT_LEAST_1,
    "eval.query_shots": _AT_LEAST_1,
    "eval.num_steps": _AT_LEAST_0,
    "eval.chunk": _AT_LEAST_1,
    "eval.validation_every": _AT_LEAST_0,
    "eval.validation_episodes": _AT_LEAST_1,
    "checkpoint.every": _AT_LEAST_1,
    "checkpoint.keep": _AT_LEAST_1,
}


def flatten(config: ConfigDict | dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of every leaf."""
    for key, value in config.items():
        if isinstance(value, ConfigDict | dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def check_key(key: str) -> None:
    """Raises a UsageError that names the nearest key where `key` is unknown."""
    known = [name for name, _ in flatten(default_config())]
    if key not in known:
        last = key.rpartition(".")[2]
        near = [name for name in known if name.rpartition(".")[2] == last]
        near = near or difflib.get_close_matches(key, known, n=1, cutoff=0.75)
        hint = f"did you mean {' or '.join(near)}?" if near else "keys are in maml_jax/config.py"
        raise UsageError(f"unknown config key {key!r}; {hint}")


def validate(config: ConfigDict) -> None:
    """Checks every key, type and value.

    Raises:
      UsageError: names the key, its value and what is allowed.
    """
    defaults = dict(flatten(default_config()))
    values = dict(flatten(config))
    for key, value in values.items():
        check_key(key)
        expected = type(defaults[key])
        if type(value) is not expected and not (expected is float and type(value) is int):
            raise UsageError(
                f"{key}={value!r} is of type {type(value).__name__}; give {expected.__name__}"
            )
    for key in defaults:
        if key not in values:
            raise UsageError(f"the config lacks the key {key!r}; start from default_config()")
    try:
        get_inner_optimizer(values["inner.optimizer"])
    except ValueError as error:
        raise UsageError(f"inner.optimizer={error}") from None
    for key, (allowed, description) in _ALLOWED.items():
        if not allowed(values[key]):
            raise UsageError(f"{key}={values[key]!r} is not allowed; use {description}")
    _check_together(values | automatic(config))


def automatic(config: ConfigDict) -> dict[str, Any]:
    """Key -> value of all keys that may be "auto", as the algorithm's row decides."""
    settings = {**AUTO, **ALGORITHMS[config.algorithm].settings}
    values = dict(flatten(config))
    return {key: settings[key] if values[key] == "auto" else values[key] for key in AUTO}


def _check_together(values: dict[str, Any]) -> None:
    """Checks what one value alone does not tell."""
    if values["model.name"] not in TASKS[values["task.name"]]:
        raise UsageError(
            f"model.name={values['model.name']!r} does not fit task.name={values['task.name']!r}; "
            f"use {', '.join(TASKS[values['task.name']])}"
        )
    if values["model.name"] != "mlp" and values["model.normalization"] == "none":
        raise UsageError(
            f"model.normalization='none' does not fit model.name={values['model.name']!r}; "
            f"use {', '.join(NORMALIZATIONS)}"
        )
    if "oracle" in values["references"] and values["task.name"] != "sinusoid":
        raise UsageError(
            f"references={values['references']} has 'oracle', which the sinusoid alone has; "
            "leave it out, as --config.references='()' does"
        )
    algorithm = ALGORITHMS[values["algorithm"]]
    steps = algorithm.train_steps(values["inner.num_steps"])
    if values["outer.objective"] == "multi_step" and steps == 0:
        raise UsageError(
            "outer.objective='multi_step' needs inner steps: inner.num_steps of 1 or more, and "
            f"an algorithm that adapts in training, not {values['algorithm']!r} with {steps}"
        )
    if algorithm.tunes_rate and values["inner.rates"] != "fixed":
        raise UsageError(
            f"algorithm={values['algorithm']!r} tunes one inner rate, but "
            f"inner.rates={values['inner.rates']!r}; use 'fixed'"
        )
    if values["outer.weight_decay"] and values["outer.optimizer"] != "adamw":
        raise UsageError(
            f"outer.weight_decay={values['outer.weight_decay']} has no effect with "
            f"outer.optimizer={values['outer.optimizer']!r}; use 'adamw' or set it to 0"
        )
    _check_halting(values)


def _check_cost(gate: str, weight: float, budget: float) -> None:
    if (weight or budget) and (gate == "none" or (weight and budget)):
        raise UsageError(
            f"halting.cost_weight={weight} and halting.budget={budget} with halting.gate={gate!r}: "
            + ("no length is learned; set both to 0" if gate == "none" else "set one of them to 0")
        )


def _check_halting(values: dict[str, Any]) -> None:
    gate, rates, steps = values["halting.gate"], values["inner.rates"], values["inner.num_steps"]
    flow, length = values["inner.meta_gradient"], values["halting.initial_length"]
    optimizer, learned = values["inner.optimizer"], values["inner.learn_optimizer"]
    if META_GRADIENTS[flow].only_init and (gate, rates, learned) != ("none", "fixed", "none"):
        raise UsageError(
            f"inner.meta_gradient={flow!r} has a gradient for the initialization alone, but "
            f"halting.gate={gate!r}, inner.rates={rates!r}, inner.learn_optimizer={learned!r}; "
            "use 'none', 'fixed' and 'none'"
        )
    if learned != "none" and not INNER_OPTIMIZERS[optimizer].hyper:
        raise UsageError(
            f"inner.learn_optimizer={learned!r} has nothing to learn of "
            f"inner.optimizer={optimizer!r}; use 'none'"
        )
    if learned == "none" and "matrices" in INNER_OPTIMIZERS[optimizer].hyper:
        raise UsageError(
            f"inner.optimizer={optimizer!r} is plain gradient descent with "
            "inner.learn_optimizer='none'; use 'global'"
        )
    learns_momentum = learned != "none" and "momentum" in INNER_OPTIMIZERS[optimizer].hyper
    if learned not in ("none", "global") and not learns_momentum:
        raise UsageError(
            f"inner.learn_optimizer={learned!r} is a granularity of momentum, which "
            f"inner.optimizer={optimizer!r} has not; use 'global'"
        )
    if learns_momentum and values["inner.momentum"] == 0:
        raise UsageError(
            f"inner.momentum=0 cannot be learned (inner.learn_optimizer={learned!r}): it has no "
            "logit; start above 0"
        )
    if META_GRADIENTS[flow].only_init and (
        values["outer.objective"] == "multi_step" or values["inner.first_order_until"]
    ):
        raise UsageError(
            f"inner.meta_gradient={flow!r} needs outer.objective='final' and "
            "inner.first_order_until=0"
        )
    _check_cost(gate, values["halting.cost_weight"], values["halting.budget"])
    if gate == "none":
        return
    if steps == 0 or ALGORITHMS[values["algorithm"]].train_steps(steps) == 0:
        raise UsageError(
            f"halting.gate={gate!r} needs inner steps; use inner.num_steps of 1 or more"
        )
    if length != -1 and not 0 <= length <= steps:
        raise UsageError(
            f"halting.initial_length={length} is not allowed; use 0 to inner.num_steps={steps}, "
            "or -1 for half of it"
        )
    if (GATES[gate].is_length or GATES[gate].per_step) and values["eval.num_steps"] < steps:
        raise UsageError(
            f"eval.num_steps={values['eval.num_steps']} would cut learned lengths; use "
            f"{steps} (inner.num_steps) or more"
        )
    if GATES[gate].per_step and values["halting.granularity"] == "parameter":
        raise UsageError(
            f"halting.gate={gate!r} stores {steps} logits a group; use halting.granularity "
            "'channel', 'tensor', 'layer' or 'global'"
        )


def reference_config(config: ConfigDict, name: str) -> ConfigDict:
    """The config of a baseline trained beside the run: all but algorithm and inputs the same."""
    reference = ConfigDict(config.to_dict())
    reference.update_from_flattened_dict(REFERENCES[name])
    reference.references = ()
    reference.inner.learn_optimizer = "none"
    reference.halting.cost_weight = reference.halting.budget = 0.0
    if "matrices" in INNER_OPTIMIZERS[reference.inner.optimizer].hyper:
        reference.inner.optimizer = "sgd"  # which it is while its matrices are not learned
    reference.inner.first_order_until = 0
    reference.update_from_flattened_dict(dict.fromkeys(AUTO, "auto"))
    reference.outer.schedule = config.outer.schedule
    return reference


def differences(
    new: dict[str, Any], old: dict[str, Any], free: tuple[str, ...] = FREE_SECTIONS
) -> list[str]:
    """Keys, free ones apart, whose values differ: "key: old -> new".

    What an older config lacks has its default, as in JSON, which knows no tuples.
    """
    defaults = {
        key: list(value) if isinstance(value, tuple) else value for key, value in flatten(_DEFAULTS)
    }
    before, after = defaults | dict(flatten(old)), dict(flatten(new))
    return [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if not key.startswith(free) and before.get(key) != after.get(key)
    ]
