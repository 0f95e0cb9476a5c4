"""Keys of a config that have no effect on a run, because of its other keys."""

import dataclasses
from collections.abc import Iterable

from maml_jax.inner.meta_gradients import META_GRADIENTS
from maml_jax.inner.optimizers.registry import INNER_OPTIMIZERS
from maml_jax.models.registry import MODELS
from maml_jax.run.problems import TASKS
from maml_jax.run.spec import RunSpec

_CARDS = ("omniglot", "cifar_fs", "fc100", "mini_imagenet", "glyphs")  # of data of this name


def unused_keys(spec: RunSpec, keys: Iterable[str]) -> set[str]:
    """Those of the keys that do not matter, of tasks, networks and methods that are not used."""
    unused = _of_task_and_model(spec) | _of_methods(spec)
    return {key for key in keys if key in unused or key.partition(".")[0] in unused}


def check_unused(spec: RunSpec, changed: Iterable[str]) -> None:
    """Checks keys that are set to something else than their defaults.

    Raises:
      ValueError: the run's task and network do not use one of them.
    """
    unused = _of_task_and_model(spec)
    for key in sorted(changed):
        section, _, name = key.partition(".")
        if key not in unused and section not in unused:
            continue
        value = getattr(spec.own.get(section) or getattr(spec, section), name)
        task, model = f"task.name={spec.task.name!r}", f"model.name={spec.model.name!r}"
        if section == "data":
            kind = spec.data.name.partition(":")[0]
            card = kind if kind in _CARDS else "own_data"
            reason = f"{task}; use a card of images, --config=configs/{card}.py, or leave it out"
        elif section == "model":
            users = [other for other, of in MODELS.items() if name in (of.uses or ())]
            reason = f"{model}; leave it out, or use {' or '.join(users)}"
        elif section in spec.own:
            reason = f"{task} and {model}; leave it out, or use {section!r}"
        else:
            reason = f"{task}; leave it out"
        raise ValueError(f"{key}={value!r} has no effect with {reason}")


def _of_task_and_model(spec: RunSpec) -> set[str]:
    """Keys, and sections as a whole."""
    task, model = TASKS.get(spec.task.name), MODELS.get(spec.model.name)
    unused = set(spec.own) - {spec.task.name, spec.model.name}
    if task is not None:
        unused |= set(task.unused)
    if model is not None and model.uses is not None:
        fields = {field.name for field in dataclasses.fields(spec.model)}
        unused |= {f"model.{name}" for name in fields - {"name", *model.uses}}
    return unused


def _of_methods(spec: RunSpec) -> set[str]:
    inner = spec.inner
    optimizer = INNER_OPTIMIZERS.get(inner.optimizer)
    estimator = META_GRADIENTS.get(inner.meta_gradient)
    rules = {
        "outer.step_sizes_learning_rate": spec.learns_step_sizes,
        "outer.optimizer_learning_rate": spec.learns_optimizer,
        "outer.learning_rate": spec.outer.optimizer not in ("trpo", "none"),
        "outer.max_kl": spec.outer.optimizer == "trpo",
        "outer.cg_steps": spec.outer.optimizer == "trpo",
        "outer.damping": spec.outer.optimizer == "trpo",
        "outer.num_updates": spec.outer.optimizer != "trpo",
        "outer.multi_step_anneal": spec.outer.objective == "multi_step",
        "outer.lengths_from": spec.learns_lengths,
        "outer.lengths_learning_rate": spec.learns_lengths,
        "inner.momentum": optimizer is None or "momentum" in optimizer.hyper,
        "inner.inverse_condition": optimizer is None or "inverse_condition" in optimizer.hyper,
        "inner.proximal": estimator is None or estimator.needs_proximal,
        "inner.cg_steps": estimator is None or estimator.needs_proximal,
        **{
            f"lengths.{field.name}": spec.learns_lengths
            for field in dataclasses.fields(spec.lengths)
            if field.name != "gate"
        },
    }
    return {key for key, used in rules.items() if not used}
