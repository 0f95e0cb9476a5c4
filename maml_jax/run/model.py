"""A trained model: adapt it to labelled examples, predict, and save it as one file."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from functools import cache, cached_property, partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from maml_jax.errors import UsageError
from maml_jax.keys import stream_key
from maml_jax.meta.batching import map_tasks
from maml_jax.run import exported, files
from maml_jax.run.adapted import Adapted
from maml_jax.run.build import Experiment, build, for_ways
from maml_jax.run.examples import Classes, as_classes, as_tasks, with_last_axis
from maml_jax.run.files import Record
from maml_jax.run.problems import Inputs
from maml_jax.run.training import fastest_chunk
from maml_jax.run.ways import with_ways
from maml_jax.run.workdir import as_json
from maml_jax.tasks.padding import pad_examples
from maml_jax.types import Array, Episode, Examples, MetaParams, Params


class _Compiled(NamedTuple):
    """The functions of a number of ways and of inner steps, jitted: once for each shape."""

    adapt: Callable[[Examples], Params]  # of support examples [B, S, ...]
    predict: Callable[[Params, Examples, Array], Array]  # adapted, support, query inputs


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A trained run without its data; `maml_jax.load` makes it.

    Attributes:
      config: of its run.
      meta_params: what it has learned.
      inputs: what its network takes.
      record: the evaluation of its run, and how it was trained; empty if it was not evaluated.
    """

    config: ConfigDict
    meta_params: MetaParams
    inputs: Inputs
    record: Record

    @cached_property
    def experiment(self) -> Experiment:
        """The functions of its run, but for those that need its data."""
        return build(self.config, training=False, inputs=self.inputs)

    def __repr__(self) -> str:
        """What it is, in one line."""
        spec, words = self.experiment.spec, []
        if self.experiment.problem.ways:
            words.append(f"{spec.task.ways}-way {spec.eval.shots}-shot")
        if self.record:
            words.append(f"{self.record['meta_step']} meta-steps")
        if accuracy := self.record.get("accuracy"):
            words.append(f"accuracy {100 * accuracy[-1]:.1f}%")
        data = spec.data.name if spec.task.name == "images" else spec.task.name
        return f"<Model: {', '.join([f'{spec.algorithm} on {data}', *words])}>"

    def adapt(self, inputs: Any, labels: Any, *, num_steps: int | None = None) -> Adapted:
        """Adapts to labelled support examples.

        Learned lengths use hard gates; step sizes and inner optimizer are the learned ones. The
        first call of a shape compiles.

        Args:
          inputs: support inputs [S, *x], or [B, S, *x] for B tasks at once, where S may differ. A
            model of images takes a list of image files or PIL images, which are processed as the
            data of its run were, or uint8 pixels in the form that these had (`inputs`: size,
            channels, inversion).
          labels: [S] or [B, S], any names or numbers of the classes, of which there may be as many
            as the model has ways, or fewer, or, where its outputs adapt, more. For a regression the
            targets [S, *y] or [B, S, *y].
          num_steps: K; None takes that of the run's evaluation.

        Raises:
          ValueError: inputs or labels do not have this form.
          UsageError: the number of classes or of steps does not fit what was learned.
        """
        if self.experiment.problem.record:
            raise UsageError(
                f"task.name={self.experiment.spec.task.name!r} adapts to data of its own, not to "
                "examples; adapt with its inner loop: experiment, state = "
                "maml_jax.run.load_run(WORKDIR)"
            )
        tasks, batched = as_tasks(inputs, self.inputs)
        num_steps = self._checked_steps(num_steps)
        classes: list[Classes] = []
        if self.experiment.problem.ways:
            targets, classes = _targets(labels if batched else [labels], tasks)
        else:
            targets = self._values(labels if batched else [labels], tasks)
        compiled = self._compiled(len(classes[0]) if classes else 0, num_steps)
        support = self._stacked(tasks, targets)
        params = compiled.adapt(support)
        return Adapted(
            params,
            classes,
            support,
            compiled.predict,
            self.inputs,
            batched,
            bool(classes) and self.transductive,
        )

    @cached_property
    def transductive(self) -> bool:
        """Whether what is predicted of a query example depends on the others of the call."""
        problem = self.experiment.problem
        drawn = jax.random.uniform(jax.random.key(0), (3, *self.inputs.shape))
        if self.inputs.dtype == "uint8":
            drawn = (255 * drawn).astype(jnp.uint8)
        params = problem.at_step(self.meta_params.init, jnp.int32(0))

        @jax.jit
        def predict_first(other: Array) -> Array:
            unknown = jnp.zeros(2, jnp.int32)
            support = Examples(drawn[:2], unknown)
            query = Examples(jnp.stack([drawn[0], other]), unknown)
            return problem.predict(params, problem.prepare(Episode(support, query)).query)[0]

        return not np.array_equal(predict_first(drawn[1]), predict_first(drawn[2]))

    def save(self, path: str | os.PathLike[str]) -> pathlib.Path:
        """Writes one safetensors file, which `maml_jax.load` reads anywhere.

        Returns:
          The path, with the suffix .safetensors.

        Raises:
          UsageError: the file cannot be written.
        """
        file = files.local_folder(path)
        if file.suffix != exported.SUFFIX:
            file = file.with_name(file.name + exported.SUFFIX)
        about = {"config": as_json(self.config), "inputs": self.inputs._asdict()}
        exported.write(file, self.meta_params, about | {"record": self.record})
        return file

    def for_ways(self, ways: int) -> tuple[Experiment, MetaParams]:
        """The functions, and what is learned, with outputs for another number of classes.

        Raises:
          UsageError: there are more of them, but the outputs cannot adapt.
        """
        if ways == self.experiment.problem.ways:
            return self.experiment, self.meta_params
        experiment = for_ways(self.experiment, ways)
        return experiment, with_ways(self.meta_params, self.experiment, experiment)

    @cached_property
    def _compiled(self) -> Callable[[int, int], _Compiled]:
        trained, key = self.experiment, stream_key(0, "test")

        @cache
        def compiled(ways: int, num_steps: int) -> _Compiled:
            experiment, meta_params = self.for_ways(ways)
            schedule = experiment.learned.schedule(meta_params, num_steps)
            loop = dataclasses.replace(experiment.inner_loop(num_steps), schedule=schedule)
            problem = experiment.problem

            def adapt_one(meta_params: MetaParams, support: Examples) -> Params:
                prepared = problem.prepare(Episode(support, support)).support
                return loop(meta_params, prepared, key).params

            def predict_one(params: Params, support: Examples, inputs: Array) -> Array:
                unknown = jnp.zeros_like(
                    support.targets, shape=(len(inputs), *support.targets.shape[1:])
                )
                query = problem.prepare(Episode(support, Examples(inputs, unknown))).query
                return problem.predict(params, query)

            chunk = trained.spec.tasks_per_chunk or fastest_chunk(trained.spec)

            @jax.jit
            def adapt(meta_params: MetaParams, support: Examples) -> Params:
                return map_tasks(partial(adapt_one, meta_params), support, chunk=chunk)

            @jax.jit
            def predict(params: Params, support: Examples, inputs: Array) -> Array:
                return map_tasks(predict_one, params, support, inputs, chunk=chunk)

            return _Compiled(partial(adapt, meta_params), predict)

        return compiled

    def _checked_steps(self, num_steps: int | None) -> int:
        spec, gates = self.experiment.spec, self.experiment.learned.gates
        steps = spec.eval.num_steps if num_steps is None else num_steps
        has_lengths = gates is not None and (gates.kind.is_length or gates.kind.per_step)
        least = gates.num_steps if gates is not None and has_lengths else 0
        if steps < least:
            raise UsageError(
                f"num_steps={steps} would cut learned lengths; use {least} (inner.num_steps) or "
                "more"
            )
        return steps

    def _values(self, labels: Any, tasks: list[np.ndarray]) -> list[np.ndarray]:
        """Targets [S, *y] of each task of a regression."""
        problem, targets = self.experiment.problem, []
        if len(labels) != len(tasks):
            raise ValueError(f"labels are those of {len(labels)} tasks, inputs of {len(tasks)}")
        for of_task, inputs in zip(labels, tasks, strict=True):
            outputs = jax.eval_shape(
                lambda params, inputs: problem.predict(
                    problem.at_step(params, jnp.int32(0)), Examples(inputs, ())
                ),
                self.meta_params.init,
                jax.ShapeDtypeStruct(inputs.shape, inputs.dtype),
            )
            given = np.asarray(of_task, np.float32)
            targets.append(with_last_axis(given, outputs.shape[1:]))
            if targets[-1].shape != outputs.shape:
                raise ValueError(
                    f"labels have the shape {list(given.shape)}; give the targets of the support "
                    f"examples, {list(outputs.shape)}"
                )
        return targets

    def _stacked(self, tasks: list[np.ndarray], targets: list[np.ndarray]) -> Examples:
        """The tasks [B, S, ...]; if they are of unequal sizes, padded WeightedExamples."""
        if len({len(task) for task in tasks}) == 1:
            return Examples(jnp.asarray(np.stack(tasks)), jnp.asarray(np.stack(targets)))
        if not self.experiment.problem.weighted or self.transductive:
            kind = self.experiment.spec.model.normalization
            raise UsageError(
                "tasks of unequal sizes need a loss with weights and model.normalization='group' "
                f"or 'none', here {kind!r}; adapt to one after another, or give equal sizes"
            )
        examples = [Examples(*of) for of in zip(tasks, targets, strict=True)]
        return cast(Examples, pad_examples(examples))


def _targets(labels: Any, tasks: list[np.ndarray]) -> tuple[list[np.ndarray], list[Classes]]:
    """Class indices [S] of each task, and the names of its classes."""
    encoded = [as_classes(of) for of in labels]
    targets, classes = [of[0] for of in encoded], [of[1] for of in encoded]
    sizes = [[len(of) for of in part] for part in (targets, tasks)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"labels are {sizes[0]} for {sizes[1]} support examples; give one for each"
        )
    numbers = sorted({len(of) for of in classes})
    if len(numbers) > 1:
        raise ValueError(f"tasks have {numbers} classes; give tasks of one number in a call")
    if numbers[0] < 2:
        raise ValueError("labels have one class; give support examples of 2 or more")
    return targets, classes
