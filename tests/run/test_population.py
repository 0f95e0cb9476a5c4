"""Runs that are trained together are the runs that they would be alone."""

import os
import pathlib
import signal
from collections.abc import Sequence

import numpy as np
import pytest

from maml_jax.errors import DivergedError, UsageError
from maml_jax.run import population
from maml_jax.run.build import build
from maml_jax.run.loop import Interrupted, evaluate_run, train_and_evaluate
from maml_jax.run.metrics import read_metrics
from maml_jax.run.population import Run, grouped, train_population
from maml_jax.run.workdir import load_run
from tests.inner.problems import assert_close
from tests.run.pictures import draw, picture_config
from tests.run.runs import tiny_config

STEPS = {"num_meta_steps": 40, "eval__validation_every": 20, "eval__validation_episodes": 8}
CHANGES: Sequence[dict[str, object]] = (
    {"seed": 0},
    {"seed": 1, "outer__learning_rate": 3e-3, "inner__step_size": 0.02, "outer__clip_norm": 0.5},
    {"seed": 2, "inner__step_size": 1e30},
)


def runs_in(folder: pathlib.Path) -> list[Run]:
    first = {"outer__max_nonfinite": 100, "outer__clip_norm": 1.0, "inner__num_steps": 2}
    configs = [tiny_config(**{**STEPS, **first, **of}) for of in CHANGES]
    return [Run(config, folder / f"seed_{config.seed}") for config in configs]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("alone")
    for config, workdir in runs_in(folder)[:2]:
        train_and_evaluate(config, workdir)
    return folder


def assert_same_run(together: pathlib.Path, alone: pathlib.Path) -> None:
    """The same up to rounding, on disk."""
    for got, want in zip(read_metrics(together), read_metrics(alone), strict=True):
        assert got.keys() == want.keys()
        for name in [name for name in want if "second" not in name]:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-3, err_msg=name)
    records = [evaluate_run(folder, {}) for folder in (together, alone)]
    for name in ("loss", "loss_median"):
        np.testing.assert_allclose(records[0][name], records[1][name], rtol=1e-3)
    assert records[0]["selected"]["meta_step"] == records[1]["selected"]["meta_step"]


@pytest.mark.slow
def test_members_equal_single_runs_also_when_stopped_and_beside_one_that_diverges(
    tmp_path: pathlib.Path, alone: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, advance = runs_in(tmp_path), population._Members.advance
    assert grouped([run.config for run in runs]) == [[0, 1, 2]]
    stops = [10]

    def stop(self: population._Members, active: Sequence[int], step: int, number: int) -> object:
        if stops and step + number == stops[0]:
            stops.pop(0)
            os.kill(os.getpid(), signal.SIGTERM)
        return advance(self, active, step, number)

    monkeypatch.setattr(population._Members, "advance", stop)
    with pytest.raises(Interrupted, match="at meta-step 10"):
        train_population(runs)
    assert int(load_run(runs[1].workdir)[1].step) == 10
    (runs[0].workdir / "checkpoints" / "10").rename(tmp_path / "lost")  # one is behind
    results = train_population(runs)
    assert [isinstance(result, UsageError) for result in results] == [False, False, True]
    assert isinstance(results[2], DivergedError)
    assert isinstance(results[0], dict)
    assert results[0]["population"] == 3
    for run in runs[:2]:
        assert_same_run(run.workdir, alone / run.workdir.name)
    assert int(load_run(runs[2].workdir)[1].step) == 40


@pytest.mark.slow
def test_members_share_images_on_the_device(tmp_path: pathlib.Path) -> None:
    """Their pool is made once, although the samplers are made while the program is traced."""
    folder = draw(tmp_path / "data")
    configs = [picture_config(folder, seed=seed, inner__step_size=0.1 + seed) for seed in (0, 1)]
    runs = [Run(config, tmp_path / str(index)) for index, config in enumerate(configs)]
    for run, result in zip(runs, train_population(runs), strict=True):
        assert isinstance(result, dict)
        assert result["population"] == 2
        alone = build(run.config)
        state = alone.train(alone.init(), 2)[0]
        state = alone.train(state, 2)[0]
        assert_close(load_run(run.workdir)[1].meta_params, state.meta_params, rtol=1e-3, atol=1e-5)


def test_runs_of_other_programs_are_apart() -> None:
    changes: Sequence[dict[str, object]] = (
        {},
        {"seed": 1},
        {"algorithm": "meta_sgd"},
        {"outer__learning_rate": 0.1},
        {"outer__clip": 1.0},  # clips at all
        {"outer__clip": 2.0},
        {"algorithm": "imaml", "inner__step_size": 0.1},  # whose proximal term is another one
        {"algorithm": "imaml", "inner__step_size": 0.2},
        {"algorithm": "adaptive_k", "lengths__freeze_at": 0.5},
        {"algorithm": "adaptive_k", "lengths__freeze_at": 0.5, "seed": 1},
    )
    configs = [tiny_config(**of) for of in changes]
    assert grouped(configs) == [[0, 1, 3], [2], [4, 5], [6], [7], [8], [9]]


@pytest.mark.slow
def test_every_number_can_differ_between_members(tmp_path: pathlib.Path) -> None:
    """All of them reach the program as arrays."""
    varied = {
        "inner__clip_norm": (1.0, 2.0),
        "outer__lengths_learning_rate": (0.1, 0.2),
        "outer__lengths_from": (1, 2),
        "outer__optimizer_learning_rate": (0.1, 0.2),
        "outer__step_sizes_learning_rate": (0.1, 0.2),
        "outer__clip": (1.0, 2.0),
        "outer__task_clip_norm": (1.0, 2.0),
        "outer__weight_decay": (0.1, 0.2),
        "lengths__temperature": (1.0, 2.0),
        "lengths__final_temperature": (0.5, 0.6),
        "lengths__budget": (0.3, 0.4),
        "lengths__dual_rate": (0.1, 0.2),
    }
    base = {
        "algorithm": "adaptive_k",
        "inner__num_steps": 2,
        "inner__optimizer": "heavy_ball",
        "inner__learn_optimizer": "global",
        "inner__step_sizes": "tensor",
        "outer__optimizer": "adamw",
        "outer__schedule": "cosine",
        "lengths__gate": "ramp",
        "num_meta_steps": 10,
    }
    pairs = [{name: of[i] for name, of in varied.items()} for i in range(2)]
    runs = [
        Run(tiny_config(**{**base, **of, "seed": i}), tmp_path / str(i))
        for i, of in enumerate(pairs)
    ]
    train_population(runs)
    train_and_evaluate(runs[1].config, tmp_path / "alone")
    got, want = (next(read_metrics(folder)) for folder in (runs[1].workdir, tmp_path / "alone"))
    for name in [name for name in want if "second" not in name]:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-3, err_msg=name)
