"""Few-shot classification from config to report, on images that the test makes."""

import pathlib
import re
from typing import Any

import chex
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from maml_jax.errors import UsageError
from maml_jax.run import figures, problems
from maml_jax.run.build import Experiment, build
from maml_jax.run.figures import images
from maml_jax.run.loop import train, train_and_evaluate
from maml_jax.run.report import write_report
from maml_jax.run.workdir import load_run
from maml_jax.tasks.episodes import Pool, make_sampler
from maml_jax.types import EpisodeSampler
from tests.inner.problems import assert_bits_equal
from tests.marks import slow_but
from tests.run.runs import tiny_config

CLASSES, IMAGES, SIZE = 20, 6, 8
BATCH_NORMALIZED_MLP = {"model__name": "mlp", "inner__step_size": 0.1}
MLP = BATCH_NORMALIZED_MLP | {"model__normalization": "none"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Each class is a pattern, each image the pattern with noise: easy to tell apart."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 200, (CLASSES, 1, SIZE, SIZE, 1))
    noisy = patterns + rng.integers(0, 50, (CLASSES, IMAGES, SIZE, SIZE, 1))
    folder = tmp_path_factory.mktemp("data")
    labels = np.repeat(np.arange(CLASSES), IMAGES)
    images = noisy.reshape(-1, SIZE, SIZE, 1).astype(np.uint8)
    np.savez(folder / "patterns.npz", images=images, labels=labels)
    return folder


def image_config(data: pathlib.Path, **changes: object) -> ConfigDict:
    settings = {
        "task__name": "images",
        "task__ways": 3,
        "task__shots": 1,
        "task__query_shots": 2,
        "eval__shots": 1,
        "eval__query_shots": 2,
        "eval__num_steps": 2,
        "eval__validation_every": 20,
        "eval__validation_episodes": 16,
        "data__name": f"npz:{data / 'patterns.npz'}",
        "data__cache_dir": str(data / "cache"),
        "model__name": "conv4",
        "model__filters": 4,
        "model__normalization": "batch",
        "inner__step_size": 0.5,
    }
    return tiny_config(**(settings | changes))


CONV4 = {"model__head_init": "xavier", "outer__learning_rate": 1e-2}
NETWORKS = [
    pytest.param(
        BATCH_NORMALIZED_MLP | {"outer__learning_rate": 1e-2}, id="mlp", marks=pytest.mark.slow
    ),
    pytest.param(CONV4, id="conv4"),
]


@pytest.mark.slow
@pytest.mark.parametrize("learns", NETWORKS)
def test_from_config_to_report(
    data: pathlib.Path, tmp_path: pathlib.Path, learns: dict[str, object]
) -> None:
    config = image_config(data, eval__num_episodes=64, **learns)
    record = train_and_evaluate(config, tmp_path)
    assert len(record["accuracy"]) == 3
    assert record["selected"]["meta_step"] in (20, 40, 60)
    assert record["accuracy"][-1] > 0.5 > record["accuracy"][0]
    assert "selected by validation" in write_report(tmp_path).read_text()
    shifts = load_run(tmp_path)[1].meta_params.init["norm_0"]["shift"]
    assert np.abs(shifts).max() > 0


@pytest.mark.parametrize(
    "normalization", slow_but(["per_step"], ["support", "per_step", "per_step_last", "group"])
)
def test_every_normalization_trains(data: pathlib.Path, normalization: str) -> None:
    """Meta-gradients of conv4 with each of them: tests/models."""
    config = image_config(data, model__name="mlp", model__normalization=normalization)
    experiment = build(config)
    state, metrics = experiment.train(experiment.init(), 3)
    assert np.isfinite(float(metrics["loss"]))
    assert int(state.skipped) == 0


def test_resnet12_is_a_model_of_the_config(data: pathlib.Path) -> None:
    """Traced alone: it takes half a minute to compile. Its meta-gradients: tests/models."""
    changes = {
        "model__name": "resnet12",
        "model__widths": (2, 2, 2, 2),
        "data__image_size": 16,
    }
    experiment = build(image_config(data, **changes))
    params = jax.eval_shape(experiment.init).meta_params.init
    assert params["conv_3_shortcut"]["kernel"].shape == (1, 1, 2, 2)
    key = jax.random.key(0)
    episode = jax.eval_shape(experiment.problem.sampler(1, 2, "train"), key)
    loss, metrics = jax.eval_shape(experiment.problem.loss, params, episode.query, key)
    chex.assert_shape([loss, metrics["accuracy"]], ())


def new_folder(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    return folder


@pytest.mark.slow
def test_the_host_keeps_its_pool_off_the_device(
    data: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = []

    def recorded(pool: Pool, **options: Any) -> EpisodeSampler:
        classes.append(len(pool.counts))
        return make_sampler(pool, **options)

    monkeypatch.setattr(problems, "make_sampler", recorded)
    config = image_config(data, data__pool="host", num_meta_steps=20, **MLP)
    train(build(config), new_folder(tmp_path / "host"))
    assert classes == [3]  # validation's; training has 13 classes
    train(build(image_config(data, num_meta_steps=20, **MLP)), new_folder(tmp_path / "device"))
    assert sorted(classes) == [3, 3, 13]


def test_options_of_the_data_are_keys_of_the_config(data: pathlib.Path) -> None:
    def images(**changes: object) -> np.ndarray:
        problem = build(image_config(data, **changes)).problem
        return np.asarray(problem.sampler(1, 2, "train")(jax.random.key(0)).query.inputs)

    inverted = images(data__invert="yes", data__channels=3)
    np.testing.assert_allclose(inverted, np.repeat(1 - images(), 3, -1), atol=1e-6)


def test_a_pool_on_the_host_gives_the_same_run_bit_for_bit_and_resumes(
    data: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    def experiment(pool: str) -> Experiment:
        return build(image_config(data, data__pool=pool, eval__validation_every=0, **MLP))

    whole = train(experiment("device"), new_folder(tmp_path / "device"))
    # A run that stopped at meta-step 20 and goes on in a new process begins with a new feed.
    again = experiment("host")
    state, _ = experiment("host").train(again.init(), 20)
    for _ in range(4):
        state, _ = again.train(state, 10)
    assert_bits_equal(state.meta_params, whole.meta_params)


FEW_VALIDATION_CLASSES = {"data__split_fractions": (0.5, 0.1, 0.4), **MLP}


def test_validation_classes_are_needed_only_by_runs_that_validate(data: pathlib.Path) -> None:
    config = image_config(data, eval__validation_every=0, **FEW_VALIDATION_CLASSES)
    experiment = build(config)
    with pytest.raises(UsageError, match="validation classes: ways=3 but the pool has 2 classes"):
        experiment.problem.sampler(1, 2, "validation")
    for needs in (
        {"eval__validation_every": 20},
        {"eval__validation_every": 0, "algorithm": "pretrained"},  # tunes its step size
    ):
        with pytest.raises(UsageError, match="validation classes"):
            build(image_config(data, **FEW_VALIDATION_CLASSES, **needs))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task__ways": 30}, "train classes: ways=30"),
        ({"task__shots": 5}, "need 7 images"),
        ({"eval__shots": 5, "eval__validation_every": 0}, "test classes: shots=5"),
        (
            {"data__min_images": 7},
            "no class has min_images=7 images, the largest has 6; lower data.min_images",
        ),
        (
            {"data__image_size": 14, "model__max_pool": True},
            "model.name='conv4': nothing is left of images of 14x14 pixels",
        ),
        ({"model__name": "resnet12"}, "use 16 pixels or more (data.image_size)"),
        (
            {"task__ways": 6, "data__split_fractions": (0.5, 0.25, 0.25)},
            "validation classes: ways=6 but the pool has 5 classes; use fewer ways (task.ways "
            "and eval.ways), or give the pool a larger share of the classes (data.split_fractions)",
        ),
        ({"data__mean": (0.5, 0.5)}, "data.mean=(0.5, 0.5) has 2 values for images of 1 channels"),
        ({"baselines": ("oracle",)}, "'oracle', which only the sinusoid and rl have"),
        ({"data__name": "npz:nowhere.npz"}, "nowhere.npz"),
        ({"data__split": "finn"}, "split='finn'"),
    ],
)
def test_data_that_will_not_do_is_one_line(
    data: pathlib.Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError) as error:
        build(image_config(data, **changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_features_train_an_mlp(data: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seeds 0 to 2 end at 0.9 or more."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), IMAGES)
    features = 10 + 5 * (2 * rng.normal(size=(CLASSES, 7))[labels] + rng.normal(size=(120, 7)))
    np.savez(data / "features.npz", features=features, labels=labels)
    name, scaled = f"npz:{data / 'features.npz'}", {"data__mean": (10.0,), "data__std": (10.0,)}
    config = image_config(data, data__name=name, **(MLP | scaled), outer__learning_rate=1e-2)
    experiment = build(config)
    state, _ = experiment.train(experiment.init(), 60)
    accuracy = experiment.evaluate(state.meta_params).estimates["accuracy"].mean
    assert accuracy[-1] > 0.5 > accuracy[0]
    assert "features float64[120, 7]" in capsys.readouterr().err
    run = figures.Run("maml", experiment, state.meta_params, {}, [])
    assert images.episode_picture([run]) is None
    for changes, message in (
        ({"model__name": "conv4", "model__normalization": "batch"}, "model.name='conv4': inputs"),
        ({"data__mean": (0.1, 0.2)}, "has 2 values for 7 features; give 1 or 7"),
        ({"data__rotation": "per_class"}, "needs square images, not features"),
    ):
        with pytest.raises(UsageError, match=re.escape(message)):
            build(image_config(data, **({"data__name": name} | MLP | changes))).init()
