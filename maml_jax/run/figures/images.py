"""A test episode of images, and which outputs are taken for which."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from maml_jax.keys import stream_key, task_keys
from maml_jax.meta.batching import map_tasks
from maml_jax.run.figures.runs import Picture, Run, describe_task
from maml_jax.run.figures.style import GREEN, VERMILLION
from maml_jax.run.spec import RunSpec
from maml_jax.tasks.episodes import sample_indices
from maml_jax.tasks.images.pools import load_pools
from maml_jax.types import Array, Episode

CONFUSION_EPISODES = 100
_MOST_WAYS, _MOST_IMAGES = 10, 5  # rows, and images of a kind in a row
_MOST_LETTERS = 18


class _Predictions(NamedTuple):
    """Of the first test episodes."""

    keys: Array  # [number], of the episodes
    episodes: Episode
    logits: np.ndarray  # [number, K+1, Q, N], on the query data


def _test_predictions(run: Run, number: int) -> _Predictions:
    experiment, meta_params = run.experiment.at_test(run.meta_params)
    spec, problem = experiment.spec, experiment.problem
    sample = problem.sampler(spec.eval.shots, spec.eval.query_shots, "test")

    def predict(key: Array) -> tuple[Array, Episode, Array]:
        episode_key, adapt_key = jax.random.split(key)
        episode = sample(episode_key)
        adaptation = experiment.inner_loop(spec.eval.num_steps)(
            meta_params,
            episode.support,
            adapt_key,
            monitor=lambda params, k: problem.predict(params, episode.query),
        )
        return episode_key, episode, adaptation.monitored

    chunk = min(number, spec.eval.chunk)
    drawn = task_keys(stream_key(spec.seed, "test"), jnp.asarray(0), jnp.arange(number))
    keys, episodes, logits = jax.jit(lambda of: map_tasks(predict, of, chunk=chunk))(drawn)
    return _Predictions(keys, episodes, np.asarray(logits))


def class_names(spec: RunSpec, episode_key: Array) -> list[str]:
    """Names of the classes of a test episode; names that are numbers become "class 3"."""
    pools = load_pools(spec.data)
    indices = sample_indices(
        episode_key,
        jnp.asarray(pools.test.counts),
        ways=spec.eval.ways,
        shots=spec.eval.shots,
        query_shots=spec.eval.query_shots,
        rotation=spec.data.rotation,
    )
    names = [pools.classes.test[index] for index in np.asarray(indices.classes)]
    names = [f"class {name}" if name.isdigit() else name for name in names]
    if spec.data.rotation == "new_classes":
        turns = np.asarray(indices.rotations)
        names = [f"{name} {90 * turn}°" for name, turn in zip(names, turns, strict=True)]
    return [
        name if len(name) <= _MOST_LETTERS else f"…{name[1 - _MOST_LETTERS :]}" for name in names
    ]


def episode_picture(runs: list[Run]) -> Figure | None:
    """One test episode: support and query images, with the predictions before and after."""
    run = runs[0]
    spec, inputs = run.experiment.spec, run.experiment.problem.inputs
    if inputs is not None and len(inputs.shape) == 1:  # features
        return None
    keys, episodes, logits = _test_predictions(run, 1)
    names = class_names(spec, keys[0])
    before, after = (logits[0, step].argmax(-1) for step in (0, -1))
    ways, shots, queries = spec.eval.ways, spec.eval.shots, spec.eval.query_shots
    shown_shots, shown_queries = min(shots, _MOST_IMAGES), min(queries, _MOST_IMAGES)
    support = np.asarray(episodes.support.inputs[0])
    # With normalization="support" the query inputs begin with the support images.
    query = np.asarray(episodes.query.inputs[0])[-ways * queries :]
    rows, columns = min(ways, _MOST_WAYS), shown_shots + shown_queries
    figure = Figure(figsize=(1.25 * columns + 1.6, 1.45 * rows + 0.5))
    grid = figure.subplots(rows, columns, squeeze=False)
    for way in range(rows):
        grid[way, 0].set_ylabel(
            names[way], rotation=0, horizontalalignment="right", verticalalignment="center"
        )
        for column in range(columns):
            axes = grid[way, column]
            if column < shown_shots:
                _show(axes, support[way * shots + column])
                continue
            index = way * queries + column - shown_shots
            _show(axes, query[index])
            _judge(axes, names, way, int(before[index]), int(after[index]))
    grid[0, 0].set_title("support", loc="center", fontsize="medium")
    figure.suptitle(describe_task(spec, shots), horizontalalignment="left", x=0.02)
    return figure


def _show(axes: Axes, image: np.ndarray) -> None:
    low, high = image.min(), image.max()
    scaled = (image - low) / max(high - low, 1e-6)
    axes.imshow(scaled[..., 0] if image.shape[-1] == 1 else scaled, cmap="gray")
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _judge(axes: Axes, names: list[str], way: int, before: int, after: int) -> None:
    """Writes over a query image what it was taken for, after adaptation and before."""

    def verdict(taken: int) -> str:
        return "✓" if taken == way else f"✗ {names[taken]}"

    colour = GREEN if after == way else VERMILLION
    axes.set_title(f"after: {verdict(after)}", loc="center", fontsize="small", color=colour)
    axes.set_xlabel(f"before: {verdict(before)}", fontsize="x-small", color="#5a5a5a")


def confusion(runs: list[Run]) -> Figure:
    """Confusion matrix of the outputs over test episodes after the last inner step."""
    run = runs[0]
    spec = run.experiment.spec
    ways = spec.eval.ways
    _, episodes, logits = _test_predictions(run, CONFUSION_EPISODES)
    truth, taken = np.asarray(episodes.query.targets), logits[:, -1].argmax(-1)
    counts = np.zeros((ways, ways))
    np.add.at(counts, (truth.ravel(), taken.ravel()), 1)
    shares = 100 * counts / counts.sum(1, keepdims=True)
    figure = Figure(figsize=(5.4, 4.4))
    axes = figure.subplots()
    image = axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=100, edgecolors="white")
    figure.colorbar(image, label="query images of the row, %")
    ticks = np.arange(ways)[:: max(ways // 10, 1)]
    axes.set(
        xlabel="predicted output",
        ylabel="true output",
        xticks=ticks + 0.5,
        xticklabels=ticks,
        yticks=ticks + 0.5,
        yticklabels=ticks,
        aspect="equal",
    )
    axes.grid(visible=False)
    axes.invert_yaxis()
    axes.set_title(f"Test: {describe_task(spec, spec.eval.shots)}, {CONFUSION_EPISODES} episodes")
    if ways <= 10:
        for row, column in np.ndindex(ways, ways):
            share = shares[row, column]
            colour = "white" if share > 50 else "black"
            axes.text(
                column + 0.5, row + 0.5, f"{share:.0f}", ha="center", va="center", color=colour
            )
    return figure


EPISODE = Picture(
    "A test episode",
    "Each row is a class that training never saw: on the left its support images, to which the "
    "network adapts; then query images with what the network takes them for after adaptation "
    "(above, ✓ is right) and before it (below). Large episodes are shown in part.",
    episode_picture,
    pixels=True,
)
CONFUSION = Picture(
    "Confusion of the outputs",
    "How often a query image of one output of the network is taken for another after the last "
    "inner step. Classes are dealt to the outputs at random in every episode, so a network that "
    "adapts has an even diagonal; a column that stands out is an output that it prefers.",
    confusion,
)
