"""Reinforcement learning as the commands run it: training, resuming, evaluation, report, errors."""

import pathlib
import signal
import sys
from typing import Any

import pytest
from ml_collections import ConfigDict

from configs import half_cheetah, navigation
from maml_jax.errors import UsageError
from maml_jax.run import load, load_run, resolve, write_report
from maml_jax.run.build import Experiment, build
from maml_jax.run.loop import Interrupted, evaluate_run, finish, prepare, train
from maml_jax.types import Metrics, TrainState
from tests.inner.problems import assert_bits_equal

TINY: dict[str, Any] = {
    "num_meta_steps": 4,
    "steps_per_dispatch": 2,
    "log_every": 2,
    "checkpoint.every": 2,
    "meta_batch_size": 8,  # over the forced devices
    "task.shots": 4,
    "task.query_shots": 4,
    "model.hidden": (5,),
    "rl.horizon": 6,
    "eval.num_episodes": 4,
    "eval.query_shots": 4,
    "eval.num_steps": 2,
    "eval.chunk": 4,
}


def tiny(variant: str = "", **changes: Any) -> ConfigDict:
    config = navigation.get_config(variant)
    config.update_from_flattened_dict(
        TINY | {key.replace("__", "."): value for key, value in changes.items()}
    )
    return config


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return build(tiny("lengths", inner__num_steps=2, baselines=()))


@pytest.fixture(scope="module")
def workdir(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("rl")
    prepare(experiment, folder)
    finish(experiment, folder, train(experiment, folder))
    return folder


def test_a_resumed_run_equals_one_that_was_never_stopped(
    experiment: Experiment, workdir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    _, whole = load_run(workdir)

    def stopped(state: TrainState, number: int) -> tuple[TrainState, Metrics]:
        signal.raise_signal(signal.SIGTERM)
        return experiment.train(state, number)

    prepare(experiment, tmp_path)
    with pytest.raises(Interrupted, match="stopped at meta-step 2"):
        train(experiment._replace(train=stopped), tmp_path)
    resumed = train(experiment, tmp_path)
    assert_bits_equal(resumed._replace(key=()), whole._replace(key=()))
    assert whole.step == 4


@pytest.mark.slow
def test_a_run_is_measured_by_returns_after_each_update(workdir: pathlib.Path) -> None:
    record = evaluate_run(workdir, {"num_steps": 3, "later_step_sizes": 1.0})
    assert len(record["return"]) == 4
    assert record["return"] == pytest.approx([-of for of in record["loss"]], rel=1e-5)
    assert record["later_step_sizes"] == 1
    assert sum(record["length_counts"]["head/bias"]) == 2


def test_the_report_shows_returns_and_paths(workdir: pathlib.Path) -> None:
    text = write_report(workdir).read_text()
    for part in (
        "reinforcement learning (navigation) with 4 rollouts for each update",
        "Return after every update",
        "Paths of the point",
        "Learned lengths: a parameter takes",
    ):
        assert part in text


def test_a_policy_does_not_adapt_to_examples(workdir: pathlib.Path) -> None:
    with pytest.raises(UsageError, match="adapts to data of its own, not to examples"):
        load(workdir).adapt([[0.0, 0.0]], [[0.0, 0.0]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rl__estimator": "reinforce"},
            "rl.estimator='reinforce' is not allowed; use one of",
        ),
        ({"rl__horizon": 0}, "rl.horizon=0 is not allowed; use 1 or more, or -1"),
        (
            {"rl__environment": "maze"},
            "rl.environment='maze' is not allowed; use one of",
        ),
        ({"task__name": "sinusoid"}, "has no effect with task.name='sinusoid'"),
        ({"outer__optimizer": "trpo", "outer__objective": "multi_step"}, "on recorded rollouts"),
        (
            {"outer__optimizer": "trpo", "algorithm": "reptile"},
            "needs derivatives through the inner",
        ),
        ({"data__name": "omniglot"}, "data.name='omniglot' has no effect with task.name='rl'"),
    ],
)
def test_settings_that_cannot_be_used_are_named(changes: Any, message: str) -> None:
    with pytest.raises(UsageError) as error:
        resolve(tiny(**changes))
    assert message in str(error.value)


def test_a_policy_is_not_normalized() -> None:
    with pytest.raises(UsageError, match=r"normalization='batch' would make an action depend"):
        build(tiny(model__normalization="batch"))


@pytest.mark.parametrize("variant", ["direction", "velocity"])
def test_a_missing_extra_is_named(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(UsageError, match=r"needs MuJoCo .* pip install 'maml_jax\[rl\]'"):
        build(half_cheetah.get_config(variant))


@pytest.mark.parametrize(("card", "variants"), [(navigation, navigation.VARIANTS)])
def test_cards_can_be_used(card: Any, variants: Any) -> None:
    for variant in variants:
        resolve(card.get_config(variant))
    with pytest.raises(UsageError, match="variant 'maze' is unknown; use one of"):
        card.get_config("maze")
