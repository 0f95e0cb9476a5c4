"""The table of algorithms: what is learned, what adapts, and how the meta-gradient is computed.

An algorithm is a choice of settings for the one inner loop; none has a loop of its own.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from maml_jax.inner.settings import InnerSettings
from maml_jax.params import everything
from maml_jax.registry import Registry
from maml_jax.types import PathPredicate


def _early_stopping(inner: InnerSettings) -> float:
    """The λ whose proximal problem shrinks an update as K steps of gradient descent do."""
    return 1 / (inner.step_size * max(inner.num_steps, 1))


def _as_at_test(spec: Any) -> int:
    """K of algorithms that need several steps."""
    return max(int(spec.eval.num_steps), 1)


# Keys of a config whose value may be "auto" (numbers: see UNSET), and what it stands for unless the
# algorithm has its own: a value, or a function of the RunSpec. The later ones see the earlier ones.
AUTO: dict[str, Any] = {
    "data.name": "glyphs",
    "eval.ways": lambda spec: spec.task.ways,
    "eval.shots": lambda spec: spec.task.shots,
    "eval.query_shots": lambda spec: spec.task.query_shots,
    "inner.meta_gradient": "exact",
    "inner.num_steps": 1,
    "inner.proximal": lambda spec: _early_stopping(spec.inner),
    "inner.step_sizes": "fixed",
    "lengths.gate": "none",
    "lengths.granularity": "parameter",
    "outer.objective": "final",
    "outer.schedule": "constant",
}
# What stands for "auto" in these keys. Runs keep the value that it stood for.
UNSET: dict[str, Any] = {
    "data.name": "",
    "eval.ways": 0,
    "eval.shots": 0,
    "eval.query_shots": 0,
    "inner.num_steps": -1,
    "inner.proximal": 0.0,
}


class Algorithm(NamedTuple):
    """An entry of `ALGORITHMS`.

    Besides θ, lengths are learned if there is a gate, and step sizes unless they are fixed.
    """

    paper: str
    summary: str
    settings: Mapping[str, Any] = MappingProxyType({})  # keys of AUTO -> this algorithm's value
    adapts: PathPredicate = everything  # selects the parameters that adapt
    norms_adapt: bool = False  # normalization shifts adapt too; MAML only meta-learns them
    train_steps: Callable[[int], int] = lambda num_steps: num_steps  # K in training
    tunes_step_size: bool = False  # the step size at test is tuned on validation episodes


def head(path: str) -> bool:
    """The last layer."""
    return path.startswith("head/")


def body(path: str) -> bool:
    """All but the last layer."""
    return not head(path)


ALGORITHMS = Registry(
    "algorithm",
    {
        "maml": Algorithm("Finn et al. 2017, arXiv:1703.03400", "the initialization is learned"),
        "fomaml": Algorithm(
            "Finn et al. 2017, section 5.2",
            "inner gradients are treated as constants",
            {"inner.meta_gradient": "first_order"},
        ),
        "reptile": Algorithm(
            "Nichol et al. 2018, arXiv:1803.02999",
            "moves θ towards the adapted φ; no gradient of the query loss",
            {"inner.num_steps": _as_at_test, "inner.meta_gradient": "reptile"},
            norms_adapt=True,
        ),
        "anil": Algorithm(
            "Raghu et al. 2020, arXiv:1909.09157", "only the last layer adapts", adapts=head
        ),
        "boil": Algorithm(
            "Oh et al. 2021, arXiv:2008.08882", "all but the last layer adapts", adapts=body
        ),
        "meta_sgd": Algorithm(
            "Li et al. 2017, arXiv:1707.09835",
            "a learned step size for every parameter",
            {"inner.step_sizes": "parameter"},
        ),
        "maml_plus_plus": Algorithm(
            "Antoniou et al. 2019, arXiv:1810.09502",
            "multi-step loss, step sizes per tensor and step, cosine outer rate",
            {
                "inner.num_steps": _as_at_test,
                "inner.step_sizes": "tensor_step",
                "outer.objective": "multi_step",
                "outer.schedule": "cosine",
            },
        ),
        "sparse_maml": Algorithm(
            "von Oswald et al. 2021, arXiv:2110.14402",
            "a learned mask selects the parameters that adapt",
            {
                "inner.num_steps": _as_at_test,
                "lengths.gate": "binary",
                "inner.meta_gradient": "first_order",
            },
            norms_adapt=True,
        ),
        "sparse_relu_maml": Algorithm(
            "von Oswald et al. 2021, arXiv:2110.14402",
            "learned step sizes, cut off at 0",
            {"inner.step_sizes": "sparse_relu", "inner.meta_gradient": "first_order"},
            norms_adapt=True,
        ),
        "imaml": Algorithm(
            "Rajeswaran et al. 2019, arXiv:1909.04630",
            "implicit gradient of a proximal inner problem",
            {"inner.num_steps": _as_at_test, "inner.meta_gradient": "implicit"},
        ),
        "adaptive_k": Algorithm(
            "this project",
            "a learned number of inner steps for every parameter",
            {"inner.num_steps": _as_at_test, "lengths.gate": "straight_through"},
        ),
        # Joint training on all tasks: MAML with K = 0, fine-tuned at test with a tuned step size.
        "pretrained": Algorithm(
            "Finn et al. 2017, section 5.1 (baseline)",
            "no inner step in training; fine-tuned at test with a tuned step size",
            train_steps=lambda num_steps: 0,
            tunes_step_size=True,
        ),
    },
)


def register_algorithm(name: str, algorithm: Algorithm) -> None:
    """Makes `algorithm=NAME` usable in configs.

    Raises:
      ValueError: the name belongs to the package, or a setting is not a key of `AUTO`.

    Example:
      >>> from maml_jax.run.algorithms import ALGORITHMS, Algorithm, register_algorithm
      >>> mine = Algorithm("me", "MAML with learned step sizes", {"inner.step_sizes": "tensor"})
      >>> register_algorithm("maml_tensor", mine)
      >>> "maml_tensor" in ALGORITHMS
      True
    """
    if unknown := set(algorithm.settings) - set(AUTO):
        raise ValueError(f"unknown settings {sorted(unknown)}; choose from {', '.join(AUTO)}")
    ALGORITHMS.register(name, algorithm)
