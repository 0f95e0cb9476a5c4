"""Progress that is shown changes nothing."""

import numpy as np
import pytest

from maml_jax.parallel import evaluation as parallel_evaluation
from maml_jax.run import evaluation
from maml_jax.run.build import build
from tests.run.runs import tiny_config


def test_an_evaluation_in_parts_gives_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []
    monkeypatch.setattr(evaluation, "evaluating", lambda parts: shown.append(len(parts)) or parts)
    experiment = build(tiny_config(eval__num_episodes=62, eval__chunk=2, eval__num_steps=2))
    meta_params = experiment.init().meta_params
    in_parts = experiment.evaluate(meta_params)
    monkeypatch.setattr(parallel_evaluation, "_MOST_PARTS", 1)
    whole = experiment.evaluate(meta_params)
    assert shown == [2, 1]  # each of 8 devices has 4 chunks
    assert in_parts.counts == whole.counts
    for got, want in zip(in_parts.estimates["loss"], whole.estimates["loss"], strict=True):
        np.testing.assert_array_equal(got, want)
