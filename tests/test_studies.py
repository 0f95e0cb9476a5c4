"""Studies: arms tuned alike, trained with every seed, compared in pairs, and shown as a table."""

import json
import os
import pathlib
import signal
import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import stats

from configs import sinusoid
from experiments import (
    acceleration_study,
    frontier,
    halting_study,
    length_caps,
    length_rates,
    processes,
    results_io,
    studies,
    study_cli,
    tables,
)
from maml_jax.config import automatic, differences, validate
from maml_jax.errors import DivergedError, UsageError
from maml_jax.experiment import build
from maml_jax.metrics import read_metrics
from maml_jax.training import Interrupted, load_run, open_workdir, train_and_evaluate
from tests.runs import tiny_config


def tiny_study(rates: Sequence[float] = (0.001, 0.01)) -> studies.Study:
    base = tiny_config(num_meta_steps=20, eval__num_steps=2, inner__num_steps=2)
    trials = [{"inner.learning_rate": rate} for rate in rates]
    sizes = {
        "tuning_steps": 10,
        "tuning_seeds": 1,
        "seeds": 2,
        "wait": 0.5,
        "first_seed": 101,
        "steps": 2,
        "k_max": 2,
    }
    family = studies.Family(base, trials, measure="loss", **sizes)
    knob = [{"halting.initial_length": length} for length in (0.0, 2.0)]
    arms = {
        "maml": studies.Arm({}),
        "adaptive_k": studies.Arm({"algorithm": "adaptive_k"}, knob),
    }
    return studies.Study(family, arms, seeds=2)


def test_a_study_tunes_trains_compares_and_resumes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study([0.01])
    record = studies.run(study, tmp_path)
    adaptive = record["arms"]["adaptive_k"]
    assert [len(arm["trials"]) for arm in record["arms"].values()] == [1, 2]
    best = max(adaptive["trials"], key=lambda trial: trial["validation_score"])
    assert adaptive["choice"].items() <= best.items()
    score = studies.validation_score(study.family, tmp_path / "tune_adaptive_k_0_0")
    assert adaptive["trials"][0]["validation_score"] == score
    assert [run["seed"] for run in adaptive["runs"]] == [101, 102]
    # The counts of lengths are of all parameters: 1-8-1 has 25 of them.
    counts = adaptive["runs"][0]["length_counts"]
    assert sum(map(sum, counts.values())) == 25

    def fail(*_: object) -> None:
        raise AssertionError("a finished run is trained again")

    monkeypatch.setattr(studies, "train_and_evaluate", fail)
    again = studies.run(study, tmp_path)
    assert again["arms"] == record["arms"]

    monkeypatch.setattr(results_io, "RESULTS", tmp_path)
    studies.keep("tiny", record, "loss", "maml")
    kept = results_io.read("tiny")
    assert (
        studies.run(study, tmp_path / "empty", studies.kept_arms(study, kept))["arms"]
        == (kept["arms"])
    )
    other = study._replace(arms={**study.arms, "maml": studies.Arm({"inner.momentum": 0.8})})
    assert list(studies.kept_arms(other, kept)) == ["adaptive_k"]
    assert not studies.kept_arms(study._replace(seeds=3), kept)
    with pytest.raises(UsageError, match="the kept result has another tuning_steps"):
        studies.kept_arms(study, {**kept, "tuning_steps": 11})
    rows = {row["arm"]: row for row in kept["rows"]}
    assert rows["maml"]["loss"]["difference"] == rows["maml"]["loss"]["half_width"] == 0
    losses = [run["loss"][-1] for run in adaptive["runs"]]
    np.testing.assert_allclose(rows["adaptive_k"]["loss"]["mean"], np.mean(losses))
    assert rows["maml"]["compute"] == record["arms"]["maml"]["runs"][0]["inner_compute"][-1]
    table = tables.study("tiny").splitlines()
    assert len(table) == 2 + len(rows) + 2
    assert sum("| adaptive_k |" in line for line in table) == 1
    of_means, of_medians = tables.pairs("tiny").splitlines()[2:]
    for line, measure in ((of_means, "loss"), (of_medians, "loss_median")):
        difference = studies.last(adaptive["runs"], measure) - studies.last(
            record["arms"]["maml"]["runs"], measure
        )
        _, arm, text, cell, _ = line.split("|")
        assert (arm, text) == (" maml ", f" {tables.LOSSES[measure]} ")
        np.testing.assert_allclose(float(cell.split("±")[0]), difference.mean(), atol=5e-4)


def test_runs_in_processes_of_their_own_give_the_same_study(tmp_path: pathlib.Path) -> None:
    study = tiny_study([0.01])
    study = study._replace(arms={"maml": study.arms["maml"]})
    alone, together = (
        studies.run(study, tmp_path / str(jobs), jobs=jobs)["arms"]["maml"]["runs"]
        for jobs in (1, 2)
    )
    for before, after in zip(alone, together, strict=True):
        assert before["seed"] == after["seed"]
        np.testing.assert_allclose(after["loss"], before["loss"], rtol=1e-5)
    assert (tmp_path / "2" / "maml_101" / processes.LOG).read_text()


def test_runs_in_processes_of_their_own_stop_together_and_name_what_failed(
    tmp_path: pathlib.Path,
) -> None:
    long, other = tmp_path / "long", tmp_path / "other"
    open_workdir(tiny_config(seed=1), other)

    def stop_once_it_trains() -> None:
        while not list(read_metrics(long)):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_once_it_trains, daemon=True).start()
    endless = tiny_config(num_meta_steps=10**6)
    with pytest.raises(Interrupted, match="stopped with 2 runs to go"):
        processes.train_all([(endless, long), (endless, other)], 2, str(tmp_path))
    assert int(load_run(long)[1].step) > 0
    with pytest.raises(UsageError, match=r"1 of 1 runs failed; see .*log.txt"):
        processes.train_all([(endless, other)], 1, str(tmp_path))
    assert "holds a run of another config (num_meta_steps" in (other / processes.LOG).read_text()


def test_a_paired_interval_is_that_of_the_paired_t_test() -> None:
    values, reference = np.array([1.0, 2.5, 3.0]), np.array([0.5, 2.6, 2.0])
    mean, half_width = studies.paired_interval(values, reference)
    interval = stats.ttest_rel(values, reference).confidence_interval(0.95)
    np.testing.assert_allclose((mean - half_width, mean + half_width), interval)


def test_an_unknown_arm_is_named() -> None:
    with pytest.raises(UsageError, match="--arms=mamll is unknown; use maml"):
        studies.select(tiny_study().arms, ["maml", "mamll"])


@pytest.mark.parametrize("task", ["sinusoid", "omniglot"])
def test_every_arm_of_the_halting_study_is_a_config_that_may_run(task: str) -> None:
    family = studies.family(task)
    study = studies.Study(family, halting_study.make_arms(task, family.steps, family.k_max), 1)
    trials = set()
    for arm in study.arms.values():
        trials.add(len(family.trials) * len(arm.knob))
        for value in arm.knob:
            validate(studies.configure(study, arm.overrides, family.trials[0], value))
    assert len(trials) == 1, "arms differ in how much they are tuned"


@pytest.mark.parametrize("task", ["sinusoid", "omniglot"])
def test_every_arm_of_the_acceleration_study_is_a_config_that_may_run(task: str) -> None:
    family = studies.family(task)
    family.base.update_from_flattened_dict(acceleration_study.shared_settings(task, family.k_max))
    study = studies.Study(family, acceleration_study.make_arms(task), 1)
    for arm in study.arms.values():
        validate(studies.configure(study, arm.overrides, family.trials[0]))


def test_the_card_of_meta_curvature_is_the_arm_of_the_study() -> None:
    family = studies.family("sinusoid")
    family.base.update_from_flattened_dict(acceleration_study.shared_settings("sinusoid", 20))
    study = studies.Study(family, acceleration_study.make_arms("sinusoid"), 1)
    rate = {"inner.learning_rate": 0.02}  # as it was chosen
    overrides = study.arms["meta_curvature_rates_tensor_step"].overrides
    arm = studies.configure(study, overrides, rate).to_dict()
    without_effect = (
        "inner.momentum",
        "outer.multi_step_anneal",
        "eval.num_episodes",
        "halting.gate",
    )
    card = sinusoid.get_config("meta_curvature")
    assert not differences(card.to_dict(), arm, without_effect)
    assert automatic(card)["halting.gate"] == arm["halting"]["gate"]


def test_an_arm_that_diverges_in_training_is_said_to_and_the_others_go_on(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study()

    def train(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
        if workdir.name == "maml_102":
            raise DivergedError("101 updates were not finite")
        return {"seed": config.seed, "train_seconds": 1.0, "evaluate_seconds": 1.0}

    monkeypatch.setattr(studies, "train_and_evaluate", train)
    monkeypatch.setattr(studies, "validation_score", lambda *_: 0.0)
    arms = studies.run(study, tmp_path)["arms"]
    assert arms["maml"]["runs"] == []
    assert arms["maml"]["stopped"] == "seed 102: 101 updates were not finite"
    assert [run["seed"] for run in arms["adaptive_k"]["runs"]] == [101, 102]
    assert "stopped" not in arms["adaptive_k"]


def finished_run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """The record of a run that is not trained."""
    seconds = {"train_seconds": 1.0, "evaluate_seconds": 1.0}
    numbers = {"nonfinite_episodes": 0, "loss": [1.0], "loss_median": [1.0], "inner_compute": [1.0]}
    process = {"commit": "abc", "command": "none", "hardware": "elsewhere"}
    return {"seed": config.seed, **seconds, **numbers, **process}


def test_keeping_a_result_loses_no_arm(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study([0.01])
    arms = study.arms | {"adaptive_k": studies.Arm({"algorithm": "adaptive_k"})}
    monkeypatch.setattr(results_io, "RESULTS", tmp_path)
    monkeypatch.setattr(study_cli, "WORKDIR", SimpleNamespace(value=str(tmp_path)))
    monkeypatch.setattr(studies, "train_and_evaluate", finished_run)

    def keep(arms: dict[str, studies.Arm], **flags: Any) -> dict[str, Any]:
        values = {"EXTEND": False, "JOBS": 1, **dict.fromkeys(("KEEP", "ARMS", "SEEDS", "STEPS"))}
        for flag, value in (values | flags).items():
            monkeypatch.setattr(study_cli, flag, SimpleNamespace(value=value))
        study_cli.run("tiny", study.family, arms, lambda record: next(iter(record["arms"])))
        return results_io.read("tiny")

    with pytest.raises(UsageError, match="result 'tiny' does not exist"):
        keep(arms, ARMS=["maml"])  # some arms alone are not kept, unless
    assert list(keep(arms, ARMS=["maml"], KEEP=True)["arms"]) == ["maml"]
    with pytest.raises(UsageError, match="the result tiny would lose maml; use --extend"):
        keep(arms, ARMS=["adaptive_k"], KEEP=True)
    both = keep(arms, ARMS=["adaptive_k"], EXTEND=True)
    assert list(both["arms"]) == ["maml", "adaptive_k"]
    assert both["run_seconds"] == 8
    assert both["extends"][0]["arms"] == ["maml"]
    of_run = both["arms"]["maml"]["runs"][0]
    assert (of_run["commit"], of_run["hardware"], "command" in of_run) == (
        "abc",
        "elsewhere",
        False,
    )
    other = arms | {"maml": studies.Arm({"inner.momentum": 0.8})}
    with pytest.raises(UsageError, match="would lose maml; kept with other settings"):
        keep(other, ARMS=["adaptive_k"], EXTEND=True)
    assert results_io.read("tiny") == both
    assert keep(arms, SEEDS=1) == both  # a look at fewer seeds
    assert list(keep(arms)["arms"]) == ["maml", "adaptive_k"]


def test_a_finished_run_is_not_taken_for_one_with_another_evaluation(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
        record = finished_run(config, workdir)
        (workdir / "evaluation.json").write_text(json.dumps(record))
        return record

    monkeypatch.setattr(studies, "train_and_evaluate", train)
    study = tiny_study([0.01])
    study = study._replace(arms={"maml": study.arms["maml"]}, seeds=1)
    first = studies.run(study, tmp_path)["arms"]
    config = (tmp_path / "maml_101" / "config.json").read_text()
    study.family.base.eval.shots += 1
    with pytest.raises(UsageError, match=r"evaluated otherwise \(eval.shots: \d+ -> \d+\)"):
        studies.run(study, tmp_path)
    assert (tmp_path / "maml_101" / "config.json").read_text() == config
    study.family.base.eval.shots -= 1
    assert studies.run(study, tmp_path)["arms"] == first


def with_lengths(*seeds: tuple[float, float, float]) -> dict[str, Any]:
    """Runs of (median loss, p99, max)."""
    names = ("mean", "p90", "share_at_0", "share_at_most")
    runs = [
        {
            "loss": [loss],
            "loss_median": [loss],
            "inner_compute": [1e6],
            "nonfinite_episodes": 0,
            "lengths": {
                "length/p99": p99,
                "length/max": longest,
                **dict.fromkeys((f"length/{name}" for name in names), 0.5),
                "inner_compute": 2e6,
                "inner_compute_share": 0.5,
            },
        }
        for loss, p99, longest in seeds
    ]
    return {"overrides": {}, "choice": {}, "runs": runs}


def test_lengths_are_compared_seed_by_seed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = with_lengths((0.1, 9.0, 12.0), (0.2, 10.0, 17.0))
    fast |= {"overrides": {"inner.optimizer": "fast"}, "optimizer_flops": 1e6}
    arms = {"gd": with_lengths((0.4, 18.0, 20.0), (0.5, 20.0, 20.0)), "fast": fast}
    record = {"arms": arms, "config": {"inner": {"num_steps": 20}}, "measure": "loss"}
    rows = studies.summarise(record, "loss", "gd")
    interval = stats.ttest_rel([9.0, 10.0], [18.0, 20.0]).confidence_interval(0.95)
    mean, half_width = rows[1]["p99_difference"]
    np.testing.assert_allclose((mean - half_width, mean + half_width), interval)
    assert (rows[1]["p99"], rows[1]["max"], rows[1]["mean"]) == (9.5, 17.0, 0.5)
    assert (
        "p99_difference"
        not in studies.summarise(
            {
                "arms": {
                    "maml": {"choice": {}, "runs": [finished_run(tiny_config(), tmp_path)] * 2},
                    **arms,
                }
            },
            *("loss", "maml"),
        )[1]
    )
    monkeypatch.setattr(results_io, "RESULTS", tmp_path)
    results_io.write("acceleration_tiny", record)
    # A full step is 2e6 / 0.5 / 20 = 2e5 FLOPs, and the optimizer's products are five times that.
    cells = "| fast | 9.5 | -9.5 ± 6.4; median wins | 500% |"
    assert tables.shorter("acceleration_tiny").splitlines()[2] == cells


@pytest.mark.parametrize(
    ("difference", "compute", "expected"),
    [
        (-0.3, 1.02, "wins"),
        (0.3, 1.0, "loses"),
        (0.1, 1.0, "even"),
        (-0.3, 1.2, "at 1.20 C"),  # better, but dearer
        (0.3, 1.2, "loses at 1.20 C"),
        (-0.3, 0.5, "wins at 0.50 C"),
        (0.1, 0.5, "at 0.50 C"),
    ],
)
def test_only_the_cheaper_side_wins_at_unequal_compute(
    difference: float, compute: float, expected: str
) -> None:
    cell = tables._against(difference, 0.2, False, compute)
    assert cell == f"{difference:+.3f} ± 0.200 {expected}"


def test_products_of_an_inner_optimizer_are_counted() -> None:
    """Meta-Curvature of a network 1-8-1: one product a mode, 2 d · n FLOPs each."""
    learned = {"inner__optimizer": "meta_curvature", "inner__learn_optimizer": "global"}
    modes = [(1, 8), (8, 8), (8, 8), (8, 8), (1, 8), (1, 1)]  # (d, parameters of the tensor)
    expected = sum(2 * d * n for d, n in modes)
    assert studies.optimizer_flops(tiny_config(**learned)) == expected
    assert studies.optimizer_flops(tiny_config(inner__optimizer="heavy_ball")) == 0


@pytest.mark.parametrize("rates", ["fixed", "parameter", "tensor_step"])
def test_steps_are_larger_where_they_shall_be(rates: str) -> None:
    experiment = build(tiny_config(algorithm="adaptive_k", inner__rates=rates))
    meta_params = experiment.init().meta_params
    before = experiment.schedule.rates(meta_params)
    larger = length_caps.with_larger_steps(experiment, meta_params, 1.5, "head")
    for path, alpha in experiment.schedule.rates(larger).items():
        factor = 1.5 if path.startswith("head/") else 1
        np.testing.assert_allclose(alpha, factor * before[path], rtol=1e-6)


def test_steps_that_cannot_be_enlarged_are_named() -> None:
    experiment = build(tiny_config(algorithm="adaptive_k", inner__rates="scalar"))
    with pytest.raises(UsageError, match="--tensors=head cannot enlarge"):
        length_caps.with_larger_steps(experiment, experiment.init().meta_params, 2.0, "head")


def test_long_lengths_are_cut_and_told_with_their_rates(tmp_path: pathlib.Path) -> None:
    config = tiny_config(
        algorithm="adaptive_k",
        inner__num_steps=2,
        inner__rates="parameter",
        inner__optimizer="heavy_ball",
        inner__learn_optimizer="parameter",
        num_meta_steps=20,
    )
    train_and_evaluate(config, tmp_path / "adaptive_k_102")
    experiment, state = load_run(tmp_path / "adaptive_k_102")
    losses = length_caps.measure(tmp_path, "adaptive_k", [0], "head")
    whole = experiment.evaluate(state.meta_params, "validation").estimates["loss"].median
    assert (losses["up to 2"], losses["cut to 0"]) == ([whole[-1]], [whole[0]])
    head_still, _ = losses["head cut to 0"], losses["head cut to 0, steps 2.00 times as large"]
    assert len({*head_still, whole[-1], whole[0]}) == 3
    with pytest.raises(UsageError, match="no runs of --arms=maml"):
        length_caps.measure(tmp_path, "maml", [0])
    with pytest.raises(UsageError, match="no learned lengths are under 'tail'; choose from dense"):
        experiment.schedule.cut(state.meta_params, 0, "tail")

    told = length_rates.classes(tmp_path, "adaptive_k", [0, 1, 2])
    lengths = experiment.schedule.lengths(state.meta_params)
    rates = experiment.schedule.rates(state.meta_params)
    logits = state.meta_params.optimizer["momentum"]
    assert told.keys() == lengths.keys()
    for path, rows in told.items():
        assert [row["lengths"] for row in rows] == [[0, 0], [1, 1], [2, None]]
        assert [row["count"] for row in rows] == [np.sum(lengths[path] == k) for k in range(3)]
        for k, row in enumerate(rows):
            inside = lengths[path] == k
            if not inside.any():
                continue
            assert row["length"] == k
            assert row["rate"] == pytest.approx(np.abs(rates[path][0][inside]).mean())
            momentum = 1 / (1 + np.exp(-np.asarray(logits[path])[inside]))
            assert row["momentum"] == pytest.approx(momentum.mean(), rel=1e-5)

    for path, row in length_rates.steps(tmp_path, "adaptive_k").items():
        taken = [lengths[path] > k for k in range(lengths[path].max())]
        assert row["count"] == [of.sum() for of in taken]
        np.testing.assert_allclose(row["rate"], [rates[path][0][of].mean() for of in taken], 1e-5)


def accelerated_record(measure: str, scores: dict[str, float]) -> dict[str, Any]:
    arms = {
        name: {
            "overrides": {} if name.startswith("gd") else {"inner.optimizer": name},
            "runs": [{measure: [3.0, score], "inner_compute": [0.0, 1e6]}],
        }
        for name, score in scores.items()
    }
    rows = [{"arm": name, measure: {"mean": score}} for name, score in scores.items()]
    return {"config": {"inner": {"num_steps": 20}}, "arms": arms, "rows": rows}


def test_accelerated_arms_are_compared_to_the_best_gradient_descent() -> None:
    scores = {"gd": 2.0, "gd_rates_tensor": 1.0, "ogm": 0.5}
    best = acceleration_study.best_gradient_descent
    assert best(accelerated_record("loss_median", scores), "loss_median") == "gd_rates_tensor"
    assert best(accelerated_record("accuracy", scores), "accuracy") == "gd"
    with pytest.raises(UsageError, match="--arms=ogm has no gd"):
        best(accelerated_record("loss_median", {"ogm": 0.5}), "loss_median")


def test_the_frontier_shows_the_reference_and_the_best_accelerated_arms(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {"gd": 0.1, "gd_rates_tensor": 0.2, **{f"fast_{i}": 1.0 + i for i in range(6)}}
    record = accelerated_record("loss_median", scores) | {"reference": "gd"}
    monkeypatch.setattr(results_io, "RESULTS", tmp_path)
    results_io.write("acceleration_sinusoid_20", record)
    results_io.write("acceleration_sinusoid_20_cost_4", record)
    shown = [
        f"adaptive_k + {name}, K_max {setting}"
        for setting in ("20", "20, cost 4")
        for name in ("gd", *(f"fast_{i}" for i in range(4)))
    ]
    assert list(frontier.curves("sinusoid")) == shown
    labels = [line.get_label() for line in frontier.draw("sinusoid").axes[0].get_lines()]
    assert [label for label in labels if not label.startswith("_")] == shown


def test_an_arm_is_tuned_by_its_mean_score_over_seeds(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study()
    study = study._replace(family=study.family._replace(tuning_seeds=2))
    scores = {"maml_0_0": 0.5, "maml_0_1": 0.1, "maml_1_0": 0.4, "maml_1_1": 0.3}
    monkeypatch.setattr(studies, "train_and_evaluate", lambda *_: {})
    monkeypatch.setattr(
        studies, "validation_score", lambda _, of: scores[of.name.removeprefix("tune_")]
    )
    choice, trials = studies.tune(study, "maml", tmp_path)
    assert choice == study.family.trials[1]
    np.testing.assert_allclose([of["validation_score"] for of in trials], [0.3, 0.35])


def test_another_length_takes_the_rates_that_the_study_chose(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study()
    kept = {"maml": {"choice": {"inner.learning_rate": 0.03}}, "adaptive_k": {"choice": None}}
    kept["maml"]["overrides"] = dict(study.arms["maml"].overrides)
    kept["adaptive_k"]["overrides"] = dict(study.arms["adaptive_k"].overrides)
    arms = acceleration_study.as_chosen(study.arms, {"arms": kept})
    changed = {"maml": studies.Arm({"inner.momentum": 0.8})}
    assert not acceleration_study.as_chosen(changed, {"arms": kept})
    trained = []

    def train(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
        trained.append((workdir.name, config.inner.learning_rate))
        return {"seed": config.seed, "train_seconds": 1.0, "evaluate_seconds": 1.0}

    monkeypatch.setattr(studies, "train_and_evaluate", train)
    record = studies.run(
        study._replace(family=study.family._replace(trials=[{}]), arms=arms), tmp_path
    )
    assert list(record["arms"]) == ["maml"]
    assert record["arms"]["maml"]["choice"] == kept["maml"]["choice"]
    assert trained == [("maml_101", 0.03), ("maml_102", 0.03)]


def test_an_arm_whose_every_trial_diverges_is_said_to(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study()
    monkeypatch.setattr(studies, "train_and_evaluate", lambda *_: {})
    monkeypatch.setattr(studies, "validation_score", lambda *_: -np.inf)
    study = study._replace(arms={"maml": study.arms["maml"]})
    record = studies.run(study, tmp_path)
    assert record["arms"]["maml"]["runs"] == []
    assert [t["validation_score"] for t in record["arms"]["maml"]["trials"]] == [None, None]


@pytest.mark.parametrize(
    ("nonfinite", "allowed", "tuned_by", "expected"),
    [
        (0, 0.0, "validation_score", 0.8),
        (1, 0.0, "validation_score", -np.inf),
        (1, 0.05, "validation_score", 0.8),
        (2, 0.05, "validation_score", -np.inf),
        (1, 0.05, "validation_loss_median", -0.3),
    ],
)
def test_a_trial_is_scored_by_the_last_validation(
    tmp_path: pathlib.Path, nonfinite: int, allowed: float, tuned_by: str, expected: float
) -> None:
    family = tiny_study().family._replace(tuned_by=tuned_by, nonfinite_allowed=allowed)
    family.base.eval.validation_episodes = 20
    line = {"validation_score": 0.8, "validation_loss_median": 0.3}
    lines = [line | {"validation_nonfinite": number} for number in (9, nonfinite)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert studies.validation_score(family, tmp_path) == expected
