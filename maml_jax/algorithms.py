"""The table of algorithms: what is learned, what adapts, how gradients flow. No row has a loop."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from maml_jax.inner.adapt import AdaptsFn, everything

# Keys of a config that may say "auto", and what that means where the row does not say.
AUTO: dict[str, Any] = {
    "inner.meta_gradient": "exact",
    "inner.rates": "fixed",
    "halting.gate": "none",
    "halting.granularity": "parameter",
    "outer.objective": "final",
    "outer.schedule": "constant",
}


class Algorithm(NamedTuple):
    """One row. Learned beside θ: lengths if there is a gate, step sizes unless they are fixed."""

    paper: str
    summary: str
    settings: Mapping[str, Any] = MappingProxyType({})  # keys of AUTO -> this algorithm's value
    adapts: AdaptsFn = everything  # paths of the parameters that move
    norms_adapt: bool = False  # normalisation shifts move too, which MAML only meta-learns
    train_steps: Callable[[int], int] = lambda num_steps: num_steps  # K in training
    tunes_rate: bool = False  # pick the inner rate at test by validation episodes


def head(path: str) -> bool:
    """The last layer."""
    return path.startswith("head/")


def body(path: str) -> bool:
    """All but the last layer."""
    return not head(path)


ALGORITHMS = {
    "maml": Algorithm("Finn et al. 2017, arXiv:1703.03400", "the initialization is learned"),
    "fomaml": Algorithm(
        "Finn et al. 2017, section 5.2",
        "inner gradients held constant",
        {"inner.meta_gradient": "first_order"},
    ),
    "reptile": Algorithm(
        "Nichol et al. 2018, arXiv:1803.02999",
        "moves θ towards the adapted φ; no gradient of the query loss",
        {"inner.meta_gradient": "reptile"},
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
        {"inner.rates": "parameter"},
    ),
    "maml_plus_plus": Algorithm(
        "Antoniou et al. 2019, arXiv:1810.09502",
        "multi-step loss, step sizes per tensor and step, cosine outer rate",
        {
            "inner.rates": "tensor_step",
            "outer.objective": "multi_step",
            "outer.schedule": "cosine",
        },
    ),
    "sparse_maml": Algorithm(
        "von Oswald et al. 2021, arXiv:2110.14402",
        "a learned mask says which parameters move",
        {"halting.gate": "binary", "inner.meta_gradient": "first_order"},
        norms_adapt=True,
    ),
    "sparse_relu_maml": Algorithm(
        "von Oswald et al. 2021, arXiv:2110.14402",
        "learned step sizes, cut off at 0",
        {"inner.rates": "sparse_relu", "inner.meta_gradient": "first_order"},
        norms_adapt=True,
    ),
    "imaml": Algorithm(
        "Rajeswaran et al. 2019, arXiv:1909.04630",
        "implicit gradient of a proximal inner problem",
        {"inner.meta_gradient": "implicit"},
    ),
    "adaptive_k": Algorithm(
        "this project",
        "a learned number of inner steps for every parameter",
        {"halting.gate": "straight_through"},
    ),
    # Joint training on all tasks: MAML with K = 0, fine-tuned at test with a tuned rate.
    "pretrained": Algorithm(
        "Finn et al. 2017, section 5.1 (baseline)",
        "no inner step in training; fine-tuned at test with a tuned rate",
        train_steps=lambda num_steps: 0,
        tunes_rate=True,
    ),
}
