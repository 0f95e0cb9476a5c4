"""What a row's number may depend on: test tasks are measured, and choose nothing."""

import pathlib

import pytest

from maml_jax.keys import stream_key
from maml_jax.run import ensemble, evaluation
from maml_jax.run.build import build
from maml_jax.run.loop import train, train_and_evaluate
from maml_jax.run.problems import TASKS, Problem
from maml_jax.run.spec import RunSpec
from maml_jax.types import EpisodeSampler
from tests.run.runs import tiny_config


def test_training_and_selection_draw_no_test_tasks(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = set[str]()

    def recorded(seed: int, stream: str) -> object:
        drawn.add(stream)
        return stream_key(seed, stream)

    def build_recorded(spec: RunSpec) -> Problem:
        problem = sinusoids.build(spec)

        def sampler(shots: int, query_shots: int, stream: str) -> EpisodeSampler:
            sampled.add(stream)
            return problem.sampler(shots, query_shots, stream)

        return problem._replace(sampler=sampler)

    sinusoids, sampled = TASKS["sinusoid"], set[str]()
    monkeypatch.setitem(TASKS._entries, "sinusoid", sinusoids._replace(build=build_recorded))
    for module in (evaluation, ensemble):
        monkeypatch.setattr(module, "stream_key", recorded)
    config = tiny_config(eval__validation_every=10, eval__validation_episodes=8, eval__ensemble=3)
    train(build(config), tmp_path)
    assert drawn == {"validation"}
    assert sampled == {"train", "validation"}
    train_and_evaluate(config, tmp_path)  # it is trained: this is the test alone
    assert drawn == {"validation", "test"}
