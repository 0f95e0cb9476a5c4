"""A trained model: adapt it to labelled examples, predict, and save it as one file."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from maml_jax.errors import UsageError
from maml_jax.keys import stream_key
from maml_jax.meta.batching import map_tasks
from maml_jax.run import exported, files
from maml_jax.run.adapted import Adapted
from maml_jax.run.build import Experiment, build, fastest_chunk
from maml_jax.run.examples import Classes, as_classes, as_inputs, with_last_axis
from maml_jax.run.files import Record
from maml_jax.run.problems import Inputs
from maml_jax.run.ways import with_ways
from maml_jax.run.workdir import as_json
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
          inputs: support inputs [S, *x], or [B, S, *x] for B tasks at once. A model of images takes
            a list of image files or PIL images, which are processed as the data of its run were, or
            uint8 pixels in the form that these had (`inputs`: size, channels, inversion).
          labels: [S] or [B, S], any names or numbers of the classes, of which there may be as many
            as the model has ways, or fewer, or, where its outputs adapt, more. For a regression the
            targets [S, *y] or [B, S, *y].
          num_steps: K; None takes that of the run's evaluation.

        Raises:
          ValueError: inputs or labels do not have this form.
          UsageError: the number of classes or of steps does not fit what was learned.
        """
        support = as_inputs(inputs, self.inputs)
        batched = support.ndim == len(self.inputs.shape) + 2
        support = support if batched else support[None]
        num_steps = self._checked_steps(num_steps)
        if self.experiment.problem.ways:
            targets, classes = self._targets(labels, support, batched)
            ways = len(classes[0])
        else:
            targets, classes, ways = self._values(labels, support, batched), [], 0
        compiled = self._compiled(ways, num_steps)
        examples = Examples(jnp.asarray(support), jnp.asarray(targets))
        params = compiled.adapt(examples)
        return Adapted(params, classes, examples, compiled.predict, self.inputs, batched)

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
        config = ConfigDict(self.config.to_dict())
        config.task.ways = ways
        experiment = build(config, training=False, inputs=self.inputs)
        return experiment, with_ways(self.meta_params, self.experiment, experiment)

    @cached_property
    def _compiled(self) -> Callable[[int, int], _Compiled]:
        trained, key = self.experiment, stream_key(0, "test")

        @cache
        def compiled(ways: int, num_steps: int) -> _Compiled:
            experiment, meta_params = self.for_ways(ways)
            problem, loop = experiment.problem, experiment.inner_loop(num_steps)

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

    def _targets(
        self, labels: Any, support: np.ndarray, batched: bool
    ) -> tuple[np.ndarray, list[Classes]]:
        """Class indices [B, S], and the names of the classes of each task."""
        encoded = [as_classes(of) for of in (labels if batched else [labels])]
        targets = [of[0] for of in encoded]
        if [len(of) for of in targets] != [support.shape[1]] * len(support):
            raise ValueError(
                f"labels are {[len(of) for of in targets]} for {len(support)} x {support.shape[1]} "
                "support examples; give one for each"
            )
        classes = [of[1] for of in encoded]
        numbers = sorted({len(of) for of in classes})
        if len(numbers) > 1:
            raise ValueError(
                f"the tasks have {numbers} classes; give tasks of the same number in one call"
            )
        if numbers[0] < 2:
            raise ValueError("labels have one class; give support examples of 2 or more")
        return np.stack(targets), classes

    def _values(self, labels: Any, support: np.ndarray, batched: bool) -> np.ndarray:
        """Targets [B, S, *y] of a regression."""
        given = np.asarray(labels, np.float32)
        problem, params = self.experiment.problem, self.meta_params.init
        outputs = jax.eval_shape(
            lambda params, inputs: problem.predict(
                problem.at_step(params, jnp.int32(0)), Examples(inputs, ())
            ),
            params,
            jax.ShapeDtypeStruct(support.shape[1:], support.dtype),
        )
        expected = (len(support), *outputs.shape)
        targets = with_last_axis(given if batched else given[None], outputs.shape[1:])
        if targets.shape != expected:
            raise ValueError(
                f"labels have the shape {list(given.shape)}; give the targets of the support "
                f"examples, {list(expected if batched else expected[1:])}"
            )
        return targets
