"""The study at equal compute."""

import pytest

from experiments.publish import results
from experiments.studies import equal_compute
from experiments.studies.runner import kept_arms
from experiments.studies.study import Study, configure, family, step_size_trials
from maml_jax.run import provenance
from maml_jax.run.config import resolve


@pytest.mark.parametrize("task", ["sinusoid", "omniglot"])
def test_every_arm_is_a_config_that_may_run(task: str) -> None:
    of_task = family(task)
    arms = equal_compute.make_arms(task, of_task.steps, of_task.k_max)
    study = Study(of_task, arms, 1)
    trials = set()
    for arm in study.arms.values():
        trials.add(len(of_task.trials) * len(arm.knob))
        for value in arm.knob:
            resolve(configure(study, arm.overrides, of_task.trials[0], value))
    assert len(trials) == 1, "arms differ in how much they are tuned"


@pytest.mark.parametrize("task", ["sinusoid", "omniglot"])
def test_kept_arms_are_those_of_the_study(task: str) -> None:
    of_task = family(task)
    of_task = of_task._replace(trials=step_size_trials(equal_compute.STEP_SIZES[task]))
    arms = equal_compute.make_arms(task, of_task.steps, of_task.k_max)
    kept = results.read(f"equal_compute_{task}") | {"versions": provenance.describe()["versions"]}
    assert kept_arms(Study(of_task, arms, of_task.seeds), kept).keys() == kept["arms"].keys()
