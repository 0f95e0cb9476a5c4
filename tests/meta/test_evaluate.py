"""Estimates from per-episode values."""

import numpy as np

from maml_jax.meta.evaluate import summarise


def test_mean_and_confidence_interval():
    values = np.random.default_rng(0).uniform(size=(600, 3))
    estimates, counts = summarise({"loss": values})
    assert counts == (600, 0, 0)
    np.testing.assert_allclose(estimates["loss"].mean, values.mean(axis=0))
    ci95 = 1.96 * values.std(axis=0, ddof=1) / np.sqrt(600)
    np.testing.assert_allclose(estimates["loss"].ci95, ci95)


def test_a_diverged_episode_is_left_out_under_every_name_but_accuracy():
    losses, values = np.ones((4, 2)), np.arange(8.0).reshape(4, 2)
    losses[1, 1], losses[2, 0] = np.nan, np.inf
    estimates, counts = summarise({"loss": losses, "error": values, "accuracy": values})
    assert counts == (4, 2, 2)
    np.testing.assert_allclose(estimates["error"].mean, [3.0, 4.0])
    np.testing.assert_allclose(estimates["loss"].mean, [1.0, 1.0])


def test_an_accuracy_counts_the_episodes_that_went_wrong():
    losses, accuracies = np.ones((4, 2)), np.array([[0.2, 1.0]] * 4)
    losses[0, 1], accuracies[0, 1] = np.nan, 0.2  # as the class of logits that are not finite
    losses[1, 1], accuracies[1, 1] = 11.0, 0.0  # sure, and wrong
    of = summarise({"loss": losses, "accuracy": accuracies})[0]["accuracy"]
    for mean in (of.mean, of.finite_mean):
        np.testing.assert_allclose(mean, [0.2, (0.2 + 0.0 + 1.0 + 1.0) / 4])
    ci95 = 1.96 * accuracies[:, 1].std(ddof=1) / 2
    np.testing.assert_allclose(of.ci95, [0, ci95], atol=1e-12)
    np.testing.assert_allclose(of.median, [0.2, 0.6])


def test_a_metric_is_estimated_where_it_is_finite():
    losses = np.ones((5, 2))
    losses[4, 0] = np.inf
    metric = np.arange(10.0).reshape(5, 2)
    metric[0, 1], metric[1:, 0] = np.nan, np.inf
    estimates, counts = summarise({"loss": losses, "metric": metric})
    assert counts == (5, 1, 1)
    for name, of in (("mean", np.mean), ("median", np.median)):
        np.testing.assert_allclose(getattr(estimates["metric"], name), [0, of([3.0, 5, 7])])
        np.testing.assert_allclose(getattr(estimates["loss"], name), [1, 1])
    ci95 = 1.96 * np.std([3.0, 5, 7], ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(estimates["metric"].ci95, [np.nan, ci95])
    np.testing.assert_array_equal(estimates["metric"].finite, [1 / 4, 3 / 4])
    np.testing.assert_array_equal(estimates["loss"].finite, [1, 1])


def test_estimates_are_nan_if_all_episodes_diverged():
    estimates, counts = summarise({"loss": np.full((3, 2), np.nan)})
    assert counts == (3, 3, 3)
    assert np.isnan(estimates["loss"].mean).all()


def test_a_single_episode_has_no_confidence_interval():
    estimates, _ = summarise({"loss": np.ones((1, 2))})
    np.testing.assert_array_equal(estimates["loss"].mean, [1.0, 1.0])
    assert np.isnan(estimates["loss"].ci95).all()


def test_an_exploding_episode_is_counted_and_does_not_decide_the_mean():
    losses = np.ones((101, 3))
    losses[0] = (2.0, 1e16, 19.0)  # above 10 times its own loss before adaptation
    losses[1] = (0.001, 9.0, 9.0)  # large, but not above 10 times what is usual
    losses[2] = (1.0, np.nan, 1.0)
    estimates, counts = summarise({"loss": losses})
    assert counts == (101, 2, 1)
    np.testing.assert_allclose(estimates["loss"].mean[2], (98 + 9) / 99)
    np.testing.assert_array_equal(estimates["loss"].median, [1, 1, 1])
    np.testing.assert_allclose(estimates["loss"].finite_mean[2], (98 + 9 + 19) / 100)


def test_the_median_is_over_all_episodes():
    losses = np.array([[1.0, 0.5], [1.0, 0.7], [1.0, np.inf], [1.0, np.nan], [1.0, 1e9]])
    estimates, _ = summarise({"loss": losses})
    np.testing.assert_array_equal(estimates["loss"].median, [1, 1e9])
    np.testing.assert_allclose(estimates["loss"].mean, [1, 0.6])


def test_negative_losses_do_not_count_as_diverged():
    losses = np.array([[-1.0, -2.0], [-1.0, -0.5], [-1.0, 7.0], [-1.0, 9.0]])
    estimates, counts = summarise({"loss": losses})
    assert counts == (4, 1, 0)
    np.testing.assert_allclose(estimates["loss"].mean, [-1, 1.5])
