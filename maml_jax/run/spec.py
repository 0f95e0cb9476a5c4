"""The typed form of a config, and the rules between its values."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from maml_jax.inner.meta_gradients import META_GRADIENTS
from maml_jax.inner.optimizers.registry import INNER_OPTIMIZERS
from maml_jax.inner.settings import InnerSettings
from maml_jax.lengths.gates import GATES, Gates
from maml_jax.lengths.settings import LengthsSettings
from maml_jax.meta.objective import multi_step_weights
from maml_jax.meta.settings import EvalSettings, OuterSettings
from maml_jax.models.registry import MODELS, ModelSettings
from maml_jax.run.algorithms import ALGORITHMS, Algorithm
from maml_jax.settings import Rule, at_least, each, one_of, setting
from maml_jax.tasks.settings import DataSettings, TaskSettings

BASELINES: dict[str, dict[str, Any]] = {
    "pretrained": {"algorithm": "pretrained"},
    "oracle": {"algorithm": "pretrained", "task.oracle": True},
    "random": {"algorithm": "pretrained", "num_meta_steps": 1, "outer.optimizer": "none"},
}


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """When checkpoints are written."""

    every: int = setting(5_000, "meta-steps between checkpoints", at_least(1))
    keep: int = setting(2, "newest checkpoints that are kept", at_least(1))


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """A run: the typed form of a config, with every "auto" replaced by the algorithm's choice."""

    algorithm: str = setting("maml", "entry of the table of algorithms", one_of(ALGORITHMS))
    seed: int = setting(
        0,
        "of initialization, training tasks and test episodes",
        Rule(lambda value: 0 <= value < 2**32, lambda: "0 to 2^32 - 1", largest=2**32 - 1),
    )
    num_meta_steps: int = setting(20_000, "meta-steps", at_least(1))
    meta_batch_size: int = setting(25, "tasks of a meta-step, over all devices", at_least(1))
    tasks_per_chunk: int = setting(
        0, "most tasks of a device at once; 0: what is fastest on the backend", at_least(0)
    )
    cpu_devices: int = setting(
        0, "devices that the CPU is split into; 0: what is fastest", at_least(0)
    )
    steps_per_dispatch: int = setting(500, "meta-steps of one compiled call", at_least(1))
    log_every: int = setting(500, "meta-steps between lines of the log", at_least(1))
    baselines: tuple[str, ...] = setting(
        (),
        "baselines trained beside the run, into WORKDIR/NAME",
        each(list(BASELINES).__contains__, "a tuple of names out of " + ", ".join(BASELINES)),
    )
    init_from: str = setting(
        "",
        "workdir, file or name of a trained model whose learned values a new run starts from; "
        "empty: none",
    )
    task: TaskSettings = TaskSettings()
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    inner: InnerSettings = InnerSettings()
    lengths: LengthsSettings = LengthsSettings()
    outer: OuterSettings = OuterSettings()
    eval: EvalSettings = EvalSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    own: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of registered entries

    @property
    def entry(self) -> Algorithm:
        """The algorithm's entry."""
        return ALGORITHMS.find(self.algorithm)

    @property
    def train_steps(self) -> int:
        """Inner steps in training."""
        return self.entry.train_steps(self.inner.num_steps)

    @property
    def learns_step_sizes(self) -> bool:
        """Whether the step sizes are learned."""
        return self.inner.step_sizes != "fixed"

    @property
    def learns_optimizer(self) -> bool:
        """Whether hyper-parameters of the inner optimizer are learned."""
        return self.inner.learn_optimizer != "none"

    @property
    def learns_lengths(self) -> bool:
        """Whether there are gates that are learned."""
        return self.lengths.gate != "none"

    @property
    def freeze_step(self) -> int:
        """The meta-step from which on learned lengths are fixed."""
        return round(self.lengths.freeze_at * self.num_meta_steps)

    def own_settings(self, name: str, otherwise: Any) -> Any:
        """The settings of a registered entry's own section, or `otherwise` if it has none."""
        return self.own.get(name, otherwise)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


def check_spec(spec: RunSpec) -> None:
    """Checks what one value alone does not tell; the rules of library objects are theirs."""
    task, model, outer = spec.task, spec.model, spec.outer
    images = task.name not in ("sinusoid", "rl")
    fitting = [name for name, of in MODELS.items() if not of.images_only or images]
    _require(
        model.name in fitting,
        f"model.name={model.name!r} does not fit task.name={task.name!r}; use {', '.join(fitting)}",
    )
    _translate("model", lambda: MODELS[model.name].build(spec.own_settings(model.name, model), 2))
    _require(
        "oracle" not in spec.baselines or task.name in ("sinusoid", "rl"),
        f"baselines={spec.baselines} has 'oracle', which only the sinusoid and rl have; leave it "
        "out, as --config.baselines='()' does",
    )
    _require(
        spec.eval.ensemble == 1 or spec.eval.validation_every > 0,
        f"eval.ensemble={spec.eval.ensemble} needs validation, which selects the parameters; use "
        "eval.validation_every of 1 or more, or 1",
    )
    if outer.objective == "multi_step":
        _translate(
            f"outer.objective='multi_step' with algorithm={spec.algorithm!r}",
            lambda: multi_step_weights(spec.train_steps, outer.multi_step_anneal),
        )
    _require(
        not (spec.entry.tunes_step_size and spec.learns_step_sizes),
        f"algorithm={spec.algorithm!r} tunes one step size, but "
        f"inner.step_sizes={spec.inner.step_sizes!r}; use 'fixed'",
    )
    _require(
        not outer.weight_decay or outer.optimizer == "adamw",
        f"outer.weight_decay={outer.weight_decay} has no effect with "
        f"outer.optimizer={outer.optimizer!r}; use 'adamw' or set it to 0",
    )
    _check_outer(spec)
    _check_inner(spec)
    _check_lengths(spec)


def _translate(section: str, make: Callable[[], object]) -> None:
    """Says which section a rule of the library is about."""
    try:
        make()
    except ValueError as error:
        raise ValueError(f"{section}: {error}") from error


def _check_outer(spec: RunSpec) -> None:
    outer, name = spec.outer, f"outer.optimizer={spec.outer.optimizer!r}"
    if outer.optimizer != "trpo":
        return
    _require(
        spec.task.name == "rl" and outer.objective == "final",
        f"{name} bounds the KL divergence of policies on recorded rollouts; use 'adam', or "
        "task.name='rl' with outer.objective='final'",
    )
    _require(
        not META_GRADIENTS[spec.inner.meta_gradient].only_init,
        f"{name} needs derivatives through the inner steps; use inner.meta_gradient='exact'",
    )


def _check_inner(spec: RunSpec) -> None:
    inner, optimizer = spec.inner, INNER_OPTIMIZERS[spec.inner.optimizer]
    learned = f"inner.learn_optimizer={inner.learn_optimizer!r}"
    name = f"inner.optimizer={inner.optimizer!r}"
    if META_GRADIENTS[inner.meta_gradient].only_init:
        _require(
            not (spec.learns_lengths or spec.learns_step_sizes or spec.learns_optimizer),
            f"inner.meta_gradient={inner.meta_gradient!r} has a gradient for the initialization "
            f"alone, but lengths.gate={spec.lengths.gate!r}, inner.step_sizes="
            f"{inner.step_sizes!r}, {learned}; use 'none', 'fixed' and 'none'",
        )
        _require(
            spec.outer.objective == "final" and not inner.first_order_until,
            f"inner.meta_gradient={inner.meta_gradient!r} needs outer.objective='final' and "
            "inner.first_order_until=0",
        )
    _require(
        bool(optimizer.hyper) or not spec.learns_optimizer,
        f"{learned} has nothing to learn of {name}; use 'none'",
    )
    _require(
        spec.learns_optimizer or "matrices" not in optimizer.hyper,
        f"{name} is plain gradient descent with {learned}; use 'global'",
    )
    learns_momentum = spec.learns_optimizer and "momentum" in optimizer.hyper
    _require(
        learns_momentum or inner.learn_optimizer in ("none", "global"),
        f"{learned} is a granularity of momentum, which {name} does not have; use 'global'",
    )
    _require(
        not learns_momentum or inner.momentum > 0,
        f"inner.momentum=0 cannot be learned ({learned}), as it has no logit; start above 0",
    )


def _check_lengths(spec: RunSpec) -> None:
    lengths, steps = spec.lengths, spec.inner.num_steps
    gate = f"lengths.gate={lengths.gate!r}"
    penalty = f"lengths.cost_weight={lengths.cost_weight} and lengths.budget={lengths.budget}"
    if not spec.learns_lengths:
        _require(
            not (lengths.cost_weight or lengths.budget),
            f"{penalty} with {gate}: no length is learned; set both to 0",
        )
        return
    _require(not (lengths.cost_weight and lengths.budget), f"{penalty}; set one of them to 0")
    _require(spec.train_steps > 0, f"{gate} needs inner steps; use inner.num_steps of 1 or more")
    _translate("lengths", lambda: Gates(lengths.gate, lengths.granularity, num_steps=steps))
    _require(
        lengths.initial_length <= steps,
        f"lengths.initial_length={lengths.initial_length} is not allowed; use 0 to "
        f"inner.num_steps={steps}, or -1 for half of it",
    )
    kind = GATES[lengths.gate]
    _require(
        spec.eval.num_steps >= steps or not (kind.is_length or kind.per_step),
        f"eval.num_steps={spec.eval.num_steps} would cut learned lengths; use {steps} "
        "(inner.num_steps) or more",
    )
