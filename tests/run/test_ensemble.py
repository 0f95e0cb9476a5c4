"""The best parameters in validation, tested together."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from maml_jax.errors import UsageError
from maml_jax.models.losses import classification_score
from maml_jax.run.build import Experiment, build
from maml_jax.run.ensemble import FOLDER, Members, make_ensemble_evaluation, read_members
from maml_jax.run.loop import train_and_evaluate
from maml_jax.run.metrics import read_metrics
from maml_jax.run.workdir import as_json
from maml_jax.types import TrainState
from tests.run.runs import tiny_config

CONFIG = tiny_config(eval__validation_every=10, eval__validation_episodes=8, eval__ensemble=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("run")
    train_and_evaluate(CONFIG, folder)
    return folder


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return build(CONFIG, training=False)


def test_the_best_of_all_validations_are_kept_and_tested(run: pathlib.Path) -> None:
    record = json.loads((run / "evaluation.json").read_text())
    scores = {
        line["step"]: line["validation_score"]
        for line in read_metrics(run)
        if "validation_score" in line
    }
    assert len(scores) == 6
    best = sorted(scores, key=lambda step: scores[step], reverse=True)[:3]
    assert record["ensemble"]["meta_steps"] == best
    assert {int(path.name) for path in (run / FOLDER).iterdir()} == set(best)
    assert len(record["ensemble"]["loss"]) == record["num_steps"] + 1


def test_an_ensemble_has_the_loss_of_the_mean_prediction(
    run: pathlib.Path, experiment: Experiment
) -> None:
    states = read_members(run, experiment.init(), as_json(CONFIG), 2)
    first, second = (of.meta_params for of in states)
    alone = experiment.evaluate(first).per_episode["loss"]
    for members in ([first], [first, first]):
        together = experiment.evaluate_ensemble(members).per_episode["loss"]
        np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)
    both = experiment.evaluate_ensemble([first, second]).per_episode["loss"]
    losses = np.mean([alone, experiment.evaluate(second).per_episode["loss"]], axis=0)
    assert (both <= losses + 1e-5).all()  # the squared error is convex
    assert (both < losses - 1e-5).any()


def test_a_run_goes_on_from_what_it_has_kept(
    run: pathlib.Path, experiment: Experiment, tmp_path: pathlib.Path
) -> None:
    state, config = experiment.init(), as_json(CONFIG)

    def at(step: int) -> TrainState:
        return state._replace(step=jax.numpy.int32(step))

    def kept() -> list[int]:
        return [int(of.step) for of in read_members(tmp_path, state, config, 9)]

    for added in (((1, 0.5), (2, 0.7), (3, 0.6)), ((3, 0.6), (4, 0.6), (5, 0.9), (6, 0.1))):
        members = Members(tmp_path, state, config, 2)
        for step, score in added:
            members.add(at(step), score)
        members.close()
    assert kept() == [5, 2]
    shutil.rmtree(tmp_path / FOLDER / "5" / "default")
    assert kept() == [2]


def test_what_cannot_be_tested_together_is_refused(
    experiment: Experiment, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(UsageError, match=r"eval.ensemble=2 needs validation"):
        build(tiny_config(eval__ensemble=2))
    with pytest.raises(UsageError, match=r"has no validated parameters for eval.ensemble=3"):
        read_members(tmp_path, experiment.init(), as_json(CONFIG), 3)
    own = experiment.problem._replace(score=None)
    loop = experiment.inner_loop(1)
    with pytest.raises(UsageError, match=r"needs the score of predictions, which task.name='sinu"):
        make_ensemble_evaluation(experiment.spec, own, loop)
    one = dataclasses.replace(experiment.spec.eval, ensemble=1)
    make_ensemble_evaluation(dataclasses.replace(experiment.spec, eval=one), own, loop)


def test_classes_are_those_of_the_mean_logits() -> None:
    logits = np.array([[[4.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])  # of two members
    alone = [float(classification_score(of, np.array([0, 1]))[1]["accuracy"]) for of in logits]
    assert alone == [1.0, 0.5]
    mean = classification_score(logits.mean(0), np.array([0, 1]))[1]["accuracy"]
    assert float(mean) == 1.0
