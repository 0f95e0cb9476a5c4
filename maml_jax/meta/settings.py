"""Settings of the outer loop and of evaluation: the sections `outer` and `eval` of a config."""

import dataclasses

from maml_jax.settings import Rule, at_least, one_of, positive, setting


@dataclasses.dataclass(frozen=True)
class OuterSettings:
    """How the meta-parameters are learned."""

    optimizer: str = setting(
        "adam",
        "optimizer of the initialization; trpo: natural gradient steps of policies; none: constant",
        one_of(("adam", "adamw", "sgd", "trpo", "none")),
    )
    learning_rate: float = setting(1e-3, "learning rate of the initialization", positive())
    lengths_learning_rate: float = setting(
        0.0, "learning rate of lengths; 0: 0.05 for lengths, 0.0075 for logits", at_least(0)
    )
    lengths_from: int = setting(0, "meta-step at which the learning of lengths starts", at_least(0))
    step_sizes_learning_rate: float = setting(1e-3, "learning rate of step sizes", positive())
    optimizer_learning_rate: float = setting(
        1e-2, "learning rate of the inner optimizer's hyper-parameters", positive()
    )
    schedule: str = setting(
        "auto", "schedule of all learning rates", one_of(("constant", "cosine"), "auto")
    )
    weight_decay: float = setting(0.0, "weight decay of the initialization (adamw)", at_least(0))
    clip: float = setting(0.0, "clips gradient elements to ±clip; 0: no clipping", at_least(0))
    clip_norm: float = setting(0.0, "clips the gradient's L2 norm; 0: no clipping", at_least(0))
    task_clip_norm: float = setting(
        0.0, "clips the L2 norm of the gradient of each task; 0: no clipping", at_least(0)
    )
    num_updates: int = setting(
        1, "updates of a meta-step on its tasks; several for recorded rollouts", at_least(1)
    )
    max_kl: float = setting(0.01, "most KL divergence of a step of trpo", positive())
    cg_steps: int = setting(10, "conjugate-gradient steps of trpo", at_least(1))
    damping: float = setting(1e-5, "added to the Fisher matrix of trpo", at_least(0))
    objective: str = setting(
        "auto",
        "final: loss after the last inner step; multi_step: weighted over all steps",
        one_of(("final", "multi_step"), "auto"),
    )
    multi_step_anneal: int = setting(
        10_000, "meta-steps over which multi_step shifts its weight to the last step", at_least(1)
    )
    max_nonfinite: int = setting(
        100, "number of skipped updates after which the run stops as diverged", at_least(0)
    )


@dataclasses.dataclass(frozen=True)
class EvalSettings:
    """How a run is validated and tested."""

    num_episodes: int = setting(2_000, "test episodes", at_least(1))
    ways: int = setting(
        0,
        "classes in an episode; 0: task.ways",
        Rule(lambda value: value == 0 or value >= 2, lambda: "2 or more, or 0"),
    )
    shots: int = setting(
        0, "support examples per class, or points of a sinusoid; 0: task.shots", at_least(0)
    )
    query_shots: int = setting(
        0, "query examples per class, or points; 0: task.query_shots", at_least(0)
    )
    num_steps: int = setting(10, "inner steps at test", at_least(0))
    later_step_sizes: float = setting(
        1.0,
        "factor of the step sizes after the first inner step at test; published for rl: 0.5",
        positive(),
    )
    chunk: int = setting(100, "episodes evaluated at once, which bounds memory", at_least(1))
    validation_every: int = setting(
        0, "meta-steps between validations; 0: no validation", at_least(0)
    )
    ensemble: int = setting(
        1,
        "parameters, the best in validation, that are also tested together with their predictions "
        "averaged; 1: none",
        at_least(1),
    )
    validation_episodes: int = setting(300, "validation episodes", at_least(1))
