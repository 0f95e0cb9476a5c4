"""The table of algorithms: what is learned, what adapts, how gradients flow. No row has a loop."""

from collections.abc import Callable
from typing import NamedTuple

from maml_jax.inner.adapt import AdaptsFn, everything


class Algorithm(NamedTuple):
    """One row."""

    paper: str
    meta_gradient: str  # name in META_GRADIENTS
    learned: tuple[str, ...] = ("init",)  # fields of MetaParams
    adapts: AdaptsFn = everything
    train_steps: Callable[[int], int] = lambda num_steps: num_steps  # K in training
    tunes_rate: bool = False  # pick the inner rate at test by validation episodes


ALGORITHMS = {
    "maml": Algorithm("Finn et al. 2017, arXiv:1703.03400", "exact"),
    "fomaml": Algorithm("Finn et al. 2017, section 5.2 (first-order MAML)", "first_order"),
    # Joint training on all tasks: MAML with K = 0, fine-tuned at test with a tuned rate.
    "pretrained": Algorithm(
        "Finn et al. 2017, section 5.1 (baseline)",
        "exact",
        train_steps=lambda num_steps: 0,
        tunes_rate=True,
    ),
}
