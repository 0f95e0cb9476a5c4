"""Runs that start from another one, and runs that go on for more meta-steps."""

import pathlib

import chex
import jax
import numpy as np
import pytest

from maml_jax.errors import UsageError
from maml_jax.run.build import build
from maml_jax.run.config import resume_conflicts
from maml_jax.run.loop import train_and_evaluate
from maml_jax.run.problems import Inputs
from maml_jax.run.warm_start import start_from
from maml_jax.run.workdir import as_json, load_run
from tests.run.pictures import picture_config
from tests.run.runs import tiny_config
from tests.run.test_model import FORM, untrained

WAVES = Inputs((1,), "float32")
LENGTHS = {"algorithm": "adaptive_k", "inner__num_steps": 4}


def test_what_two_runs_learn_alike_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    model = untrained(tiny_config(seed=1, inner__step_sizes="tensor", **LENGTHS), WAVES)
    long = jax.tree.map(lambda leaf: leaf + 2, model.meta_params.lengths)
    model.meta_params.lengths.update(long)
    config = tiny_config(**LENGTHS | {"inner__num_steps": 3})
    experiment = build(config, training=False)
    state = start_from(model, experiment)
    given, taken = model.meta_params, state.meta_params
    np.testing.assert_array_equal(given.init["head"]["kernel"], taken.init["head"]["kernel"])
    assert np.asarray(taken.lengths["head/bias"]) == 3  # 4 there, where K is 4
    assert np.shape(taken.step_sizes) == ()
    notes = capsys.readouterr().err
    assert "8 learned values are taken" in notes
    assert "step_sizes (inner.step_sizes='tensor' there, 'fixed' here)" in notes


def test_outputs_may_be_more_or_fewer() -> None:
    gone = pathlib.Path("gone")
    model = untrained(picture_config(gone, seed=1))
    experiment = build(picture_config(gone, task__ways=5), training=False, inputs=FORM)
    kernel = start_from(model, experiment).meta_params.init["head"]["kernel"]
    trained = model.meta_params.init["head"]["kernel"]
    np.testing.assert_array_equal(kernel[:, :3], trained)
    np.testing.assert_allclose(kernel[:, 3:], trained.mean(1, keepdims=True).repeat(2, 1), 1e-6)


def test_a_start_that_cannot_be_had_is_refused_and_leaves_no_folder(tmp_path: pathlib.Path) -> None:
    for init_from, message in ((str(tmp_path), "holds no run"), ("sinus", "no pretrained model")):
        with pytest.raises(UsageError, match=message):
            train_and_evaluate(tiny_config(init_from=init_from), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    other = untrained(picture_config(tmp_path))
    with pytest.raises(UsageError, match="does not fit the network"):
        start_from(other, build(tiny_config(), training=False))


def test_a_run_starts_from_a_model_and_goes_on_for_more_meta_steps(tmp_path: pathlib.Path) -> None:
    start = untrained(tiny_config(seed=1), WAVES)
    tiny = {
        "num_meta_steps": 20,
        "eval__num_episodes": 8,
        "init_from": str(start.save(tmp_path / "start")),
        "outer__learning_rate": 1e-6,
    }
    train_and_evaluate(tiny_config(**tiny), tmp_path / "run")
    record = train_and_evaluate(tiny_config(**tiny | {"num_meta_steps": 40}), tmp_path / "run")
    assert record["meta_step"] == 40
    learned = load_run(tmp_path / "run")[1].meta_params.init
    chex.assert_trees_all_close(learned, start.meta_params.init, atol=1e-4)
    with pytest.raises(UsageError, match=r"num_meta_steps: 40 -> 20.*--init_from="):
        train_and_evaluate(tiny_config(**tiny), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"outer__schedule": "cosine"}, "outer.schedule='cosine'"),
        ({"algorithm": "maml_plus_plus"}, "outer.schedule='cosine'"),
        ({"algorithm": "adaptive_k"}, ""),
        (
            {"algorithm": "adaptive_k", "lengths__final_temperature": 0.1},
            "lengths.final_temperature=0.1",
        ),
    ],
)
def test_more_meta_steps_need_schedules_without_their_number(changes: dict, reason: str) -> None:
    new, old = (as_json(tiny_config(num_meta_steps=number, **changes)) for number in (90, 60))
    expected = f"num_meta_steps: 60 -> 90, on which {reason} depends"
    assert resume_conflicts(new, old) == ([expected] if reason else [])
    assert resume_conflicts(old, new) == ["num_meta_steps: 90 -> 60"]
