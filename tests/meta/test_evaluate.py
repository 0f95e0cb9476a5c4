"""Estimates from per-episode values."""

import numpy as np

from maml_jax.meta.evaluate import summarise


def test_mean_and_confidence_interval():
    values = np.random.default_rng(0).normal(size=(600, 3))
    estimates, dropped = summarise({"loss": values})
    assert dropped == 0
    np.testing.assert_allclose(estimates["loss"].mean, values.mean(axis=0))
    ci95 = 1.96 * values.std(axis=0, ddof=1) / np.sqrt(600)
    np.testing.assert_allclose(estimates["loss"].ci95, ci95)


def test_a_diverged_episode_is_left_out_under_every_name():
    losses, accuracies = np.ones((4, 2)), np.arange(8.0).reshape(4, 2)
    losses[1, 1], losses[2, 0] = np.nan, np.inf
    estimates, dropped = summarise({"loss": losses, "accuracy": accuracies})
    assert dropped == 2
    np.testing.assert_allclose(estimates["accuracy"].mean, [3.0, 4.0])
    np.testing.assert_allclose(estimates["loss"].mean, [1.0, 1.0])


def test_a_metric_is_estimated_where_it_is_finite():
    losses = np.ones((5, 2))
    losses[4, 0] = np.inf
    metric = np.arange(10.0).reshape(5, 2)
    metric[0, 1], metric[1:, 0] = np.nan, np.inf
    estimates, dropped = summarise({"loss": losses, "metric": metric})
    assert dropped == 1
    for name, of in (("mean", np.mean), ("median", np.median)):
        np.testing.assert_allclose(getattr(estimates["metric"], name), [0, of([3.0, 5, 7])])
        np.testing.assert_allclose(getattr(estimates["loss"], name), [1, 1])
    ci95 = 1.96 * np.std([3.0, 5, 7], ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(estimates["metric"].ci95, [np.nan, ci95])
    np.testing.assert_array_equal(estimates["metric"].finite, [1 / 4, 3 / 4])
    np.testing.assert_array_equal(estimates["loss"].finite, [1, 1])


def test_estimates_are_nan_if_all_episodes_diverged():
    estimates, dropped = summarise({"loss": np.full((3, 2), np.nan)})
    assert dropped == 3
    assert np.isnan(estimates["loss"].mean).all()


def test_a_single_episode_has_no_confidence_interval():
    estimates, _ = summarise({"loss": np.ones((1, 2))})
    np.testing.assert_array_equal(estimates["loss"].mean, [1.0, 1.0])
    assert np.isnan(estimates["loss"].ci95).all()
