"""Every algorithm trains by its name alone: the values that its entry and the cards stand for.

test_algorithms.py trains each of them for a few meta-steps.
"""

import pathlib
import runpy

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from maml_jax.run.algorithms import ALGORITHMS
from maml_jax.run.build import build
from maml_jax.run.config import resolve

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
CARDS = ["sinusoid", "glyphs"]
# Reptile does not adapt in more steps than it was trained with; the card has five, and ten at test.
CHANGES = {("reptile", "sinusoid"): {"inner.num_steps": -1}}


def config_of(card: str, name: str, **changes: object) -> ConfigDict:
    config = runpy.run_path(str(CONFIGS / f"{card}.py"))["get_config"]()
    settings = {"algorithm": name, "baselines": (), "eval.validation_every": 0}
    settings |= CHANGES.get((name, card), {})
    few = {"eval.num_episodes": 200, "eval.validation_episodes": 100, "eval.chunk": 50}
    config.update_from_flattened_dict(settings | few | changes)
    return config


def assert_trains(config: ConfigDict) -> None:
    """The network is finite, no step was skipped, and adapting helps on every count.

    Up to 2% of the episodes may diverge: learned step sizes are tested in more steps than trained.
    """
    experiment = build(config)
    state, _ = experiment.train(experiment.init(), config.num_meta_steps)
    assert int(state.skipped) == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.meta_params))
    evaluation = experiment.evaluate(state.meta_params)
    loss = evaluation.estimates["loss"]
    assert evaluation.counts.diverged <= 0.02 * config.eval.num_episodes
    assert loss.mean[-1] < loss.mean[0]
    assert loss.median[-1] < loss.median[0]
    if "accuracy" in evaluation.estimates:
        accuracy = evaluation.estimates["accuracy"].mean
        assert accuracy[-1] > accuracy[0] + 0.1


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_defaults_fit_together(name: str, card: str) -> None:
    spec = resolve(config_of(card, name))
    assert 0 < spec.inner.num_steps <= spec.eval.num_steps
    if name == "imaml":  # the proximal term alone is minimized at a stable step size
        assert spec.inner.step_size * spec.inner.proximal <= 1
    if spec.learns_lengths:
        assert spec.inner.num_steps > 1


@pytest.mark.slow
@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_trains_by_its_name_alone(name: str, card: str) -> None:
    tasks = 24 if card == "sinusoid" else 32  # over eight devices; the sinusoid has 25
    assert_trains(config_of(card, name, num_meta_steps=500, meta_batch_size=tasks))
