"""The study of accelerated inner loops."""

import pathlib

import pytest
from ml_collections import ConfigDict

from configs import sinusoid
from experiments.publish import results
from experiments.publish.results import Record
from experiments.studies import acceleration, runner, runs
from experiments.studies.acceleration import Variant
from experiments.studies.study import Arm, Study, configure, family
from maml_jax.errors import UsageError
from maml_jax.run import provenance
from maml_jax.run.config import differences, resolve
from tests.experiments.problems import accelerated_record
from tests.experiments.studies.problems import alone, tiny_study


def study_on(task: str) -> Study:
    of_task = family(task)
    settings = acceleration.shared_settings(task, of_task.k_max)
    of_task.base.update_from_flattened_dict(dict(settings))
    return Study(of_task, acceleration.make_arms(task), 1)


@pytest.mark.parametrize("task", ["sinusoid", "omniglot"])
def test_every_arm_is_a_config_that_may_run(task: str) -> None:
    study = study_on(task)
    for arm in study.arms.values():
        resolve(configure(study, arm.overrides, study.family.trials[0]))


@pytest.mark.parametrize(
    ("task", "variant", "seeds"),
    [
        ("sinusoid", Variant(), 5),
        ("sinusoid", Variant(first_seed=601), 10),
        ("sinusoid", Variant(cost=4), 5),
        ("sinusoid", Variant(cost=16), 5),
        ("sinusoid", Variant(k_max=40), 5),
        ("omniglot", Variant(), 3),
        ("omniglot", Variant(k_max=20), 3),
    ],
)
def test_kept_arms_are_those_of_the_study(task: str, variant: Variant, seeds: int) -> None:
    name, of_task, arms = acceleration.prepare(task, family(task), variant)
    kept = results.read(name) | {"versions": provenance.describe()["versions"]}
    assert runner.kept_arms(Study(of_task, arms, seeds), kept).keys() == kept["arms"].keys()


def test_the_card_of_meta_curvature_is_the_arm_of_the_study() -> None:
    study = study_on("sinusoid")
    step_size = {"inner.step_size": 0.02}  # as it was chosen
    overrides = study.arms["meta_curvature_rates_tensor_step"].overrides
    arm = configure(study, overrides, step_size).to_dict()
    without_effect = (
        "inner.momentum",
        "outer.multi_step_anneal",
        "eval.num_episodes",
        "lengths.gate",
    )
    card = sinusoid.get_config("meta_curvature")
    assert not differences(card.to_dict(), arm, without_effect)
    assert resolve(card).lengths.gate == arm["lengths"]["gate"]


def test_accelerated_arms_are_compared_to_the_best_gradient_descent() -> None:
    scores = {"gd": 2.0, "gd_rates_tensor": 1.0, "ogm": 0.5}
    best = acceleration.best_gradient_descent
    assert best(accelerated_record("loss_median", scores), "loss_median") == "gd_rates_tensor"
    assert best(accelerated_record("accuracy", scores), "accuracy") == "gd"
    with pytest.raises(UsageError, match="--arms=ogm has no gd"):
        best(accelerated_record("loss_median", {"ogm": 0.5}), "loss_median")


def test_another_length_takes_the_step_sizes_that_the_study_chose(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study()
    kept: dict[str, Record] = {
        "maml": {"choice": {"inner.step_size": 0.03}},
        "adaptive_k": {"choice": None},
    }
    kept["maml"]["overrides"] = dict(study.arms["maml"].overrides)
    kept["adaptive_k"]["overrides"] = dict(study.arms["adaptive_k"].overrides)
    arms = acceleration.with_kept_choices(study.arms, {"arms": kept})
    changed = {"maml": Arm({"inner.momentum": 0.8})}
    assert not acceleration.with_kept_choices(changed, {"arms": kept})
    trained = []

    def train(config: ConfigDict, workdir: pathlib.Path) -> Record:
        trained.append((workdir.name, config.inner.step_size))
        return {"seed": config.seed, "train_seconds": 1.0, "evaluate_seconds": 1.0}

    monkeypatch.setattr(runs, "train_and_evaluate", train)
    record = runner.run(
        study._replace(family=study.family._replace(trials=[{}]), arms=arms), tmp_path, train=alone
    )
    assert list(record["arms"]) == ["maml"]
    assert record["arms"]["maml"]["choice"] == kept["maml"]["choice"]
    assert trained == [("maml_101", 0.03), ("maml_102", 0.03)]
