"""The contract checks: every entry of the package passes them, and wrong entries fail."""

from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maml_jax import testing
from maml_jax.errors import UsageError
from maml_jax.inner.optimizers import INNER_OPTIMIZERS, register_inner_optimizer
from maml_jax.lengths.gates import GATES, Gate, Step, register_gate
from maml_jax.models.registry import MODELS, register_model
from maml_jax.run.problems import TASKS, Problem, register_task
from maml_jax.run.spec import RunSpec
from maml_jax.types import Array, Episode, PyTree
from tests.marks import slow_but

Update = Callable[..., tuple[PyTree, PyTree]]


@pytest.fixture(autouse=True)
def restored_registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forgets the wrong entries of a test."""
    for registry in (INNER_OPTIMIZERS, GATES, TASKS, MODELS):
        monkeypatch.setattr(registry, "_entries", dict(registry))
    return


# tests/inner/optimizers/test_contracts.py and tests/lengths/test_gates.py have the contracts of the
# others one by one.
@pytest.mark.parametrize("name", slow_but(["adam"], INNER_OPTIMIZERS))
def test_inner_optimizers_pass(name: str) -> None:
    testing.check_inner_optimizer(name)


@pytest.mark.parametrize("name", slow_but(["survival", "hard_concrete"], GATES))
def test_gates_pass(name: str) -> None:
    testing.check_gate(name)


def test_sinusoids_pass() -> None:
    """The other task, `images`, is checked on the data set of docs/extending.md."""
    testing.check_task("sinusoid", **{"model.hidden": (4,)})


def test_models_pass() -> None:
    testing.check_model("mlp", **{"model.hidden": (4,)})
    register_model("of_images", lambda settings, outputs: OfImages(outputs), images_only=True)
    testing.check_model("of_images")


def test_unknown_names_are_refused() -> None:
    for check in (testing.check_inner_optimizer, testing.check_gate, testing.check_model):
        with pytest.raises(ValueError, match="'nothing' is unknown; choose from"):
            check("nothing")
    with pytest.raises(UsageError, match=r"task\.name='nothing' is not allowed; use one of"):
        testing.check_task("nothing")
    with pytest.raises(UsageError, match=r"unknown config key 'model\.hiden'"):
        testing.check_task("sinusoid", **{"model.hiden": (4,)})


def stateless(update: Update) -> optax.GradientTransformationExtraArgs:
    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def on_gradients(of_leaf: Callable[[Array], Array]) -> optax.GradientTransformation:
    return optax.stateless(lambda updates, params: jax.tree.map(of_leaf, updates))


def without_extra_args() -> optax.GradientTransformationExtraArgs:
    return stateless(lambda updates, state, params=None: (updates, state))


def divided_by_the_norm(offset: float) -> optax.GradientTransformation:
    def update(updates: Any, params: Any) -> Any:
        squared = offset + optax.tree.norm(updates, squared=True)
        return jax.tree.map(lambda g: g * jax.lax.rsqrt(squared).astype(g.dtype), updates)

    return optax.stateless(update)


def growing_state() -> optax.GradientTransformation:
    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return updates, (*state, jnp.zeros(()))

    return optax.GradientTransformation(lambda params: (), update)


def with_an_if() -> optax.GradientTransformation:
    return on_gradients(lambda g: g if g.ndim == 0 or g.ravel()[0] > 0 else -g)


def another_one_each_time(made: list[int] = []) -> optax.GradientTransformation:  # noqa: B006
    made.append(1)
    return optax.scale(1.0 + len(made))


WRONG_OPTIMIZERS = {
    "without_extra_args": (without_extra_args, "accept gate, step_size and value"),
    "with_an_if": (with_an_if, "accept gate, step_size and value"),
    "float32_only": (lambda: on_gradients(jnp.float32), "keep the shapes and dtypes"),
    "downhill": (lambda: optax.sgd(0.1), "return directions that point uphill"),
    "growing_state": (growing_state, "keep the shapes and dtypes"),
    "divided_by_the_norm": (
        lambda: divided_by_the_norm(0.0),
        "finite directions where an inner gradient",
    ),
    "adam_of_optax": (optax.scale_by_adam, "finite meta-gradients where an inner gradient"),
    "norm_of_all": (lambda: divided_by_the_norm(1.0), "not let the gradient of a halted"),
    "constant": (lambda: on_gradients(jax.lax.stop_gradient), "agree with finite differences"),
    "another": (another_one_each_time, "agree with reverse mode"),
}


@pytest.mark.parametrize("wrong", WRONG_OPTIMIZERS)
def test_wrong_inner_optimizers_fail(wrong: str) -> None:
    make, message = WRONG_OPTIMIZERS[wrong]
    register_inner_optimizer(f"wrong_{wrong}", lambda values, num_steps: make())
    with pytest.raises(AssertionError, match=f"inner optimizer 'wrong_{wrong}' must .*{message}"):
        testing.check_inner_optimizer(f"wrong_{wrong}")


def left(length: Array, step: Step) -> Array:
    """The ramp."""
    return jnp.clip(length - step.k, 0, 1)


def no_steps(length: float, shape: tuple[int, ...], num_steps: int, key: Array) -> Array:
    return jnp.zeros(shape)


WRONG_GATES = {
    "shape": (Gate(lambda length, step: left(jnp.ones(7), step)), "broadcast to the parameters"),
    "start": (Gate(left, no_steps), "give the length that is asked for"),
    "mean": (Gate(left, no_steps, is_length=False), "give the length that is asked for"),
    "range": (Gate(lambda length, step: length - step.k), r"soft values within \[0, 1\]"),
    "root": (Gate(lambda length, step: jnp.sqrt(left(length, step))), "finite gradients"),
    "flat": (Gate(lambda length, step: jnp.round(left(length, step))), "not all 0"),
    "late": (
        Gate(lambda length, step: left(length, Step(step.num_steps - 1 - step.k, 4))),
        "hard values that do not rise with k",
    ),
    "dtype": (Gate(lambda length, step: left(jnp.float32(length), step)), "keep the dtype"),
}


@pytest.mark.parametrize("wrong", WRONG_GATES)
def test_wrong_gates_fail(wrong: str) -> None:
    gate, message = WRONG_GATES[wrong]
    register_gate(f"wrong_{wrong}", gate)
    with pytest.raises(AssertionError, match=f"gate 'wrong_{wrong}' .*must .*{message}"):
        testing.check_gate(f"wrong_{wrong}")


RANDOM = np.random.default_rng(0)


def changed_sampler(change: Callable[[Episode, Array], Any]) -> Callable[[Problem], Problem]:
    """Changes every episode, given its key."""

    def of_problem(problem: Problem) -> Problem:
        def sampler(*sizes: Any) -> Callable[[Array], Any]:
            return lambda key: change(problem.sampler(*sizes)(key), key)

        return problem._replace(sampler=sampler)

    return of_problem


def same_for_every_key(problem: Problem) -> Problem:
    episode = problem.sampler(2, 3, "train")(jax.random.key(0))
    return problem._replace(sampler=lambda *sizes: lambda key: episode)


def noisy(episode: Episode, key: Array) -> Episode:
    return jax.tree.map(lambda leaf: leaf + RANDOM.normal(), episode)


def of_numpy(episode: Episode, key: Array) -> Episode:
    return jax.tree.map(np.asarray, episode)


def swapped(episode: Episode, key: Array) -> Episode:
    return Episode(episode.query, episode.support)


def changed_loss(change: Callable[[Array, Any], Any]) -> Callable[[Problem], Problem]:
    return lambda problem: problem._replace(loss=lambda *data: change(*problem.loss(*data)))


def random_init(problem: Problem) -> Problem:
    init = problem.init_params
    return problem._replace(
        init_params=lambda key, steps: jax.tree.map(lambda p: p + RANDOM.normal(), init(key, steps))
    )


WRONG_TASKS: dict[str, tuple[Callable[[Problem], Problem], str]] = {
    "noisy": (changed_sampler(noisy), "give the same for the same key"),
    "same": (same_for_every_key, "another episode for another key"),
    "of_numpy": (changed_sampler(of_numpy), "run under jit"),
    "swapped": (changed_sampler(swapped), r"give \[2, 3\] support and query examples"),
    "random_init": (random_init, "depend on its key"),
    "vector": (changed_loss(lambda loss, aux: (loss[None], aux)), "be scalars"),
    "nan": (changed_loss(lambda loss, aux: (loss, {"log": jnp.log(-loss)})), "be finite"),
    "no_metrics": (changed_loss(lambda loss, aux: (loss, ())), "a dict of metrics"),
    "constant": (changed_loss(lambda loss, aux: (jax.lax.stop_gradient(loss), aux)), "change"),
    "one_row": (
        lambda problem: problem._replace(predict=lambda *given: problem.predict(*given)[:1]),
        "one row per example",
    ),
}


@pytest.mark.parametrize(
    "wrong", slow_but(["noisy", "same", "of_numpy", "random_init", "nan", "one_row"], WRONG_TASKS)
)
def test_wrong_tasks_fail(wrong: str) -> None:
    change, message = WRONG_TASKS[wrong]

    def build(spec: RunSpec) -> Problem:
        return change(TASKS["sinusoid"].build(spec))

    register_task(f"wrong_{wrong}", build)
    with pytest.raises(AssertionError, match=f"task 'wrong_{wrong}' must .*{message}"):
        testing.check_task(f"wrong_{wrong}", **{"model.hidden": (4,)})


class OfImages(nn.Module):
    outputs: int

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        _, height, width, channels = inputs.shape
        return nn.Dense(self.outputs)(inputs.reshape(-1, height * width * channels))


class RunningStatistics(nn.Module):
    outputs: int

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        return nn.Dense(self.outputs)(nn.BatchNorm(use_running_average=True)(inputs))


class Dead(nn.Module):
    outputs: int

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        return jax.lax.stop_gradient(nn.Dense(self.outputs)(inputs))


WRONG_MODELS = {
    "statistics": (lambda settings, outputs: RunningStatistics(outputs), "no variables but"),
    "outputs": (lambda settings, outputs: nn.Dense(3), r"outputs \[S, outputs\]"),
    "dead": (lambda settings, outputs: Dead(outputs), "gradients that are not all 0"),
}


@pytest.mark.parametrize("wrong", WRONG_MODELS)
def test_wrong_models_fail(wrong: str) -> None:
    build, message = WRONG_MODELS[wrong]
    register_model(f"wrong_{wrong}", build)
    with pytest.raises(AssertionError, match=f"model 'wrong_{wrong}' must .*{message}"):
        testing.check_model(f"wrong_{wrong}")
