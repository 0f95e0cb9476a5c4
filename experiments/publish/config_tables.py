"""Tables of what configs choose: every key, its default and what is allowed; inner optimizers."""

import dataclasses
import inspect
from typing import Any

from experiments.publish.formats import markdown
from maml_jax.inner.meta_gradients import META_GRADIENTS
from maml_jax.inner.optimizers.registry import INNER_OPTIMIZERS
from maml_jax.inner.step_sizes import STEP_SIZES
from maml_jax.lengths.gates import GATES
from maml_jax.models.registry import MODELS
from maml_jax.rl.registry import ENVIRONMENTS
from maml_jax.run.algorithms import ALGORITHMS
from maml_jax.run.config import rule_of
from maml_jax.run.problems import TASKS
from maml_jax.run.spec import RunSpec

_REGISTRIES = (
    ALGORITHMS,
    ENVIRONMENTS,
    GATES,
    INNER_OPTIMIZERS,
    META_GRADIENTS,
    MODELS,
    STEP_SIZES,
    TASKS,
)
_KINDS = {str: "any text", bool: "`True` or `False`", float: "any number", int: "any whole number"}


def _sections() -> dict[str, Any]:
    """Section -> settings class, with those of the package's own tasks and models."""
    fields = [(field.name, type(field.default)) for field in dataclasses.fields(RunSpec)]
    sections = {name: of for name, of in fields if dataclasses.is_dataclass(of)}
    for registry in (TASKS, MODELS):
        own = ((name, entry.settings) for name, entry in registry.items())
        sections |= {name: of for name, of in own if of and registry.is_built_in(name)}
    return sections


def configuration() -> str:
    """One table for the keys without a section, and one for each section of the package."""
    fields = dataclasses.fields(RunSpec)
    parts = [_table("", [field for field in fields if "rule" in field.metadata])]
    for name, settings in _sections().items():
        table = _table(f"{name}.", dataclasses.fields(settings))
        parts.append(f"### `{name}`\n\n{inspect.getdoc(settings) or ''}\n\n{table}")
    return "\n\n".join(parts)


_OPTIMIZERS = {  # name -> what a reader knows it by
    "sgd": "gradient descent",
    "heavy_ball": "Polyak's momentum",
    "nesterov": "Nesterov's momentum, constant",
    "nesterov_sequence": "Nesterov's momentum with the t-sequence",
    "nesterov_strongly_convex": "Nesterov's momentum for a known condition number",
    "nesterov_restart": "the t-sequence, restarted where the direction points uphill",
    "nesterov_restart_value": "the t-sequence, restarted where the loss rises",
    "ogm": "the optimized gradient method",
    "chebyshev_steps": "gradient descent with Chebyshev step sizes",
    "chebyshev": "the Chebyshev semi-iteration",
    "barzilai_borwein": "long Barzilai-Borwein steps",
    "barzilai_borwein_short": "short Barzilai-Borwein steps",
    "conjugate_gradient": "nonlinear conjugate gradients (Polak-Ribière)",
    "conjugate_gradient_hs": "nonlinear conjugate gradients (Hestenes-Stiefel)",
    "anderson": "Anderson mixing",
    "meta_curvature": "a learned matrix for every axis of a tensor (Meta-Curvature)",
    "meta_curvature_momentum": "the same, with momentum behind it",
    "adam": "Adam",
    "rmsprop": "RMSprop",
    "adagrad": "Adagrad",
    "lion": "Lion",
}


def inner_optimizers() -> str:
    """The inner optimizers of the package, with what can be learned of each."""
    rows = [
        [
            f"`{name}`",
            _OPTIMIZERS[name],
            ", ".join(f"`{key}`" for key in INNER_OPTIMIZERS[name].hyper),
            "yes" if INNER_OPTIMIZERS[name].own_step else "",
        ]
        for name in INNER_OPTIMIZERS
        if INNER_OPTIMIZERS.is_built_in(name)
    ]
    return markdown(["`inner.optimizer`", "what it is", "can be learned", "own step size"], rows)


def _table(prefix: str, fields: Any) -> str:
    rows = [
        [
            f"`{prefix}{field.name}`",
            f"`{field.default!r}`",
            _plain(field.metadata["help"]),
            _allowed(prefix + field.name, field),
        ]
        for field in fields
    ]
    return markdown(["key", "default", "what it is", "allowed"], rows)


def _allowed(key: str, field: dataclasses.Field[Any]) -> str:
    """What the rule of a key allows, without the entries that a user's module has registered."""
    rule = rule_of(key, field)
    if rule is None:
        return _KINDS[type(field.default)]
    own = {name for registry in _REGISTRIES for name in registry if not registry.is_built_in(name)}
    return _plain(", ".join(name for name in rule.allowed().split(", ") if name not in own))


def _plain(text: str) -> str:
    """Text without what Markdown would read as a mark."""
    return text.replace("|", "\\|").replace("*", "\\*")
