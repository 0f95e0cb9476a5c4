"""What a row's number may depend on: test tasks are measured, and choose nothing."""

import pathlib

import pytest

from maml_jax.keys import stream_key
from maml_jax.run import ensemble, evaluation
from maml_jax.run.build import build
from maml_jax.run.loop import train, train_and_evaluate
from tests.run.runs import tiny_config


def test_training_and_selection_draw_no_test_tasks(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = set[str]()

    def recorded(seed: int, stream: str) -> object:
        drawn.add(stream)
        return stream_key(seed, stream)

    for module in (evaluation, ensemble):
        monkeypatch.setattr(module, "stream_key", recorded)
    config = tiny_config(eval__validation_every=10, eval__validation_episodes=8, eval__ensemble=3)
    train(build(config), tmp_path)
    assert drawn == {"validation"}
    train_and_evaluate(config, tmp_path)  # it is trained: this is the test alone
    assert drawn == {"validation", "test"}
