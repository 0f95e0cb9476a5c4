"""Trained models without their data: adapt, predict, save and load."""

import csv
import dataclasses
import pathlib
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import maml_jax as mj
from maml_jax.errors import UsageError
from maml_jax.run.build import build
from maml_jax.run.files import Record
from maml_jax.run.loop import evaluate_run, train_and_evaluate
from maml_jax.run.model import Model
from maml_jax.run.problems import Inputs
from maml_jax.run.workdir import load_run
from maml_jax.tasks import sinusoid
from tests.marks import slow_but
from tests.run.pictures import SIZE, draw, picture_config
from tests.run.runs import tiny_config

FORM = Inputs((SIZE, SIZE, 1), "uint8", True)


class Trained(NamedTuple):
    workdir: pathlib.Path
    images: pathlib.Path  # of its data set, which the run can no longer find
    record: Record  # of its training, with test episodes of 4 ways
    fewer: Record  # of an evaluation on 2 ways
    table: list[dict[str, str]]  # of the episodes of that


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("model")
    images, workdir, table = draw(folder / "images"), folder / "run", folder / "episodes.csv"
    record = train_and_evaluate(picture_config(images, eval__ways=4), workdir)
    fewer = evaluate_run(workdir, {"ways": 2}, table)
    moved = images.rename(folder / "moved")
    (folder / "cache").rename(folder / "no_cache")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    return Trained(workdir, moved, record, fewer, rows)


def untrained(config: ConfigDict, inputs: Inputs = FORM) -> Model:
    model = Model(config, mj.MetaParams(()), inputs, {})
    return dataclasses.replace(model, meta_params=model.experiment.init().meta_params)


def images_of(folder: pathlib.Path, image: int, classes: int = 3) -> list[pathlib.Path]:
    return [folder / f"c{label:02d}/{image}.png" for label in range(classes)]


def pixels(paths: list[pathlib.Path]) -> np.ndarray:
    return np.stack([255 - np.asarray(Image.open(path))[..., None] for path in paths])


def test_a_run_predicts_new_images_without_its_data(trained: Trained) -> None:
    workdir, images = trained.workdir, trained.images
    with pytest.raises(UsageError, match="is not a folder"):
        load_run(workdir)
    model = mj.load(workdir)
    assert model.record["accuracy"]
    assert "maml on folder:" in repr(model)
    support, query = images_of(images, 0), [*images_of(images, 1), images / "c02/2.png"]
    adapted = model.adapt(support, ["a", ("b", 1), 3])
    prediction = adapted.predict([str(query[0]), Image.open(query[1]), *query[2:]])
    assert prediction.classes == ["a", ("b", 1), 3]
    assert prediction.labels == [prediction.classes[i] for i in prediction.logits.argmax(-1)]
    np.testing.assert_allclose(prediction.probabilities.sum(-1), 1, rtol=1e-6)
    # The same by hand, from pixels that are inverted and standardized as those of the run.
    experiment = model.experiment
    hand = [jnp.asarray(pixels(of) / np.float32(255) - np.float32(0.4)) for of in (support, query)]
    adaptation = experiment.inner_loop(2)(
        model.meta_params, mj.Examples(hand[0], jnp.arange(3)), jax.random.key(0)
    )
    logits = experiment.problem.predict(
        adaptation.params, mj.Examples(hand[1], jnp.zeros(4, jnp.int32))
    )
    np.testing.assert_allclose(prediction.logits, logits, rtol=1e-4, atol=1e-5)


def test_tasks_at_once_equal_one_at_a_time(trained: Trained) -> None:
    images, model = trained.images, mj.load(trained.workdir, last=True)
    support = pixels(images_of(images, 0, 6)).reshape(2, 3, SIZE, SIZE, 1)
    query = pixels(images_of(images, 1, 6)).reshape(2, 3, SIZE, SIZE, 1)
    names = [["a", "b", "c"], ["d", "e", "f"]]
    both = model.adapt(support, names).predict(query)
    assert both.classes == names
    for task in range(2):
        one = model.adapt(support[task], names[task]).predict(query[task, ..., 0])
        np.testing.assert_allclose(one.logits, both.logits[task], rtol=1e-5)
        assert one.labels == both.labels[task]


def test_a_file_holds_all_of_a_model(trained: Trained, tmp_path: pathlib.Path) -> None:
    images, model = trained.images, mj.load(trained.workdir)
    path = model.save(tmp_path / "model")
    assert path.name == "model.safetensors"
    loaded = mj.load(path)
    support, labels = images_of(images, 0), [0, 1, 2]
    predictions = [of.adapt(support, labels).predict(support) for of in (model, loaded)]
    np.testing.assert_array_equal(predictions[0].logits, predictions[1].logits)
    assert (loaded.record, loaded.inputs) == (model.record, model.inputs)
    content = path.read_bytes()
    path.write_bytes(content[:-8])
    with pytest.raises(UsageError, match=r"model\.safetensors is no model that maml_jax has saved"):
        mj.load(path)


def test_test_episodes_may_have_other_ways_and_are_listed(trained: Trained) -> None:
    assert (trained.record["ways"], trained.fewer["ways"]) == (4, 2)
    assert trained.record["accuracy"][0] < 0.5
    number, rows = trained.fewer["num_episodes"], trained.table
    assert [row["parameters"] for row in rows] == ["last"] * number + ["selected"] * number
    accuracies = np.array([float(row["accuracy_2"]) for row in rows[:number]])
    assert accuracies.mean() == pytest.approx(trained.fewer["accuracy"][2], rel=1e-6)
    assert set(accuracies) <= {0, 0.25, 0.5, 0.75, 1}  # of 2 ways with 2 query images


@pytest.mark.parametrize("algorithm", slow_but(["adaptive_k"], ["maml", "adaptive_k", "boil"]))
def test_other_ways_than_those_of_training(algorithm: str) -> None:
    model = untrained(picture_config(pathlib.Path("gone"), algorithm=algorithm))
    images = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 1), np.uint8)
    fewer = model.adapt(images[:2], ["a", "b"])
    assert fewer.params["head"]["bias"].shape == (1, 2)
    assert fewer.predict(images).logits.shape == (4, 2)
    if algorithm == "boil":
        with pytest.raises(UsageError, match=r"does not adapt head/bias.*at most as many ways"):
            model.adapt(images, range(4))
        config = picture_config(pathlib.Path("gone"), algorithm=algorithm, eval__ways=4)
        with pytest.raises(UsageError, match=r"does not adapt head/bias"):
            build(config, training=False, inputs=FORM)
        return
    more = model.adapt(images, range(4), num_steps=20).predict(images)
    assert more.logits.shape == (4, 4)
    assert np.unique(more.logits.round(4)).size == 16  # the outputs are told apart


def test_tasks_of_unequal_sizes_equal_one_at_a_time() -> None:
    config = picture_config(pathlib.Path("gone"), model__normalization="group")
    model = untrained(config)
    images = np.random.default_rng(0).integers(0, 256, (7, SIZE, SIZE, 1), np.uint8)
    tasks, names = [images[:5], images[4:]], ["abcab", "abc"]
    both = model.adapt(tasks, names).predict(np.stack([images, images]))
    for task in range(2):
        one = model.adapt(tasks[task], names[task]).predict(images)
        np.testing.assert_allclose(one.logits, both.logits[task], rtol=1e-4, atol=1e-5)
    config.model.normalization = "batch"
    with pytest.raises(UsageError, match=r"unequal sizes need .* 'none', here 'batch'"):
        untrained(config).adapt(tasks, names)


@pytest.mark.parametrize(
    ("normalization", "number", "warns"), [("batch", 2, 1), ("batch", 3, 0), ("support", 1, 0)]
)
def test_too_few_query_examples_for_their_statistics_are_told(
    normalization: str, number: int, warns: int
) -> None:
    model = untrained(picture_config(pathlib.Path("gone"), model__normalization=normalization))
    images = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 1), np.uint8)
    adapted = model.adapt(images, "abc")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        adapted.predict(images[:number])
    assert sum("too few for 3 classes" in str(of.message) for of in told) == warns


@pytest.mark.parametrize(
    ("normalization", "expected"), [("batch", True), ("support", False), ("group", False)]
)
def test_transduction_is_that_of_the_network(normalization: str, expected: bool) -> None:
    config = picture_config(pathlib.Path("gone"), model__normalization=normalization)
    assert untrained(config).transductive == expected


def test_learned_lengths_are_not_cut() -> None:
    model = untrained(picture_config(pathlib.Path("gone"), algorithm="adaptive_k"))
    with pytest.raises(UsageError, match=r"num_steps=0 would cut learned lengths; use 2"):
        model.adapt(np.zeros((2, SIZE, SIZE, 1), np.uint8), "ab", num_steps=0)


def test_a_regression_predicts_values() -> None:
    model = untrained(tiny_config(), Inputs((1,), "float32"))
    support, query = sinusoid.sample_episode(jax.random.key(0), num_support=5)
    prediction = model.adapt(*support).predict(query.inputs)
    assert prediction.values.shape == (10, 1)
    assert not len(prediction.labels)
    # Without the last axis, which would otherwise broadcast to [S, S].
    flat = model.adapt(support.inputs, support.targets[:, 0]).predict(query.inputs[:, 0])
    np.testing.assert_array_equal(flat.values, prediction.values)
    with pytest.raises(ValueError, match=r"shape \[4, 1\]; give the targets .* \[5, 1\]"):
        model.adapt(support.inputs, support.targets[:4])


IMAGES = np.zeros((3, SIZE, SIZE, 1), np.uint8)
WRONG = {
    "float": (IMAGES / 255, "abc", "dtype float64; give image files, PIL images or uint8"),
    "size": (np.zeros((3, 4, 4, 1), np.uint8), "abc", r"shape \[3, 4, 4, 1\].*PIL images are"),
    "labels": (IMAGES, "ab", r"labels are \[2\] for \[3\] support examples"),
    "one class": (IMAGES, "aaa", "labels have one class"),
    "no name": (IMAGES, [[1], [2], [3]], "cannot name a class"),
    "no file": (["gone.png"], "a", "gone.png cannot be read"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_examples_are_refused(case: str) -> None:
    inputs, labels, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        untrained(picture_config(pathlib.Path("gone"))).adapt(inputs, labels)


def test_queries_of_another_number_of_tasks_are_refused() -> None:
    model = untrained(picture_config(pathlib.Path("gone")))
    with pytest.raises(ValueError, match="those of 2 tasks, but the model has adapted to one task"):
        model.adapt(IMAGES, "abc").predict(np.stack([IMAGES, IMAGES]))


def test_what_cannot_be_loaded_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match=r"no pretrained model.* use one of "):
        mj.load("omniglt")
    with pytest.raises(UsageError, match="holds no run; train one there"):
        mj.load(tmp_path)
    (tmp_path / "sweep.csv").touch()
    with pytest.raises(UsageError, match="holds no run; see its SETTING/seed_N"):
        mj.load(tmp_path)
