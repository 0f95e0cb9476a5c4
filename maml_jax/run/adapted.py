"""A model that has adapted to a task, and what it predicts."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maml_jax.run.examples import Classes, as_inputs
from maml_jax.run.problems import Inputs
from maml_jax.types import Array, Examples, Params


class Prediction(NamedTuple):
    """What an adapted model says about query examples; with a leading [B] for several tasks.

    Of a regression, only the values are there.
    """

    values: np.ndarray  # [Q, *y]; of a classification the logits [Q, N]
    probabilities: np.ndarray = np.empty(0)  # [Q, N]
    labels: Any = ()  # [Q], the most probable class of each example
    classes: Any = ()  # [N], in the order of logits and probabilities

    @property
    def logits(self) -> np.ndarray:
        """The values, as they are called in a classification."""
        return self.values


@dataclasses.dataclass(frozen=True, eq=False)
class Adapted:
    """A model that has adapted to the support examples of a task, or of several.

    Attributes:
      params: the adapted parameters, with a leading [B].
      classes: names of the classes of each of the B tasks; empty for a regression.
    """

    params: Params
    classes: list[Classes]
    _support: Examples
    _predict: Callable[[Params, Examples, Array], Array]
    _inputs: Inputs
    _batched: bool
    _transductive: bool = False

    def predict(self, inputs: Any) -> Prediction:
        """Predicts query examples.

        With model.normalization="batch" or "per_step", the statistics are those of all query
        examples of the call, as in training: what is predicted of one depends on the others
        (transductive), and few examples, or all of one class, are predicted badly. Models that
        were trained with "support" or "group" predict each example on its own.

        Args:
          inputs: query inputs [Q, *x], or [B, Q, *x] if the model has adapted to B tasks; see
            `Model.adapt`.

        Warns:
          UserWarning: such statistics are those of fewer examples than there are classes.

        Raises:
          ValueError: the inputs do not have this form.
        """
        query = as_inputs(inputs, self._inputs)
        tasks, batched = len(self._support.inputs), query.ndim == len(self._inputs.shape) + 2
        if batched != self._batched or (batched and len(query) != tasks):
            given = f"{len(query)} tasks" if batched else "one task"
            raise ValueError(
                f"inputs are those of {given}, but the model has adapted to "
                f"{f'{tasks} tasks' if self._batched else 'one task'}; give inputs for each of them"
            )
        query = query if batched else query[None]
        if self._transductive and query.shape[1] < len(self.classes[0]):
            warnings.warn(
                f"the model normalizes with the statistics of {query.shape[1]} query examples, "
                f"too few for {len(self.classes[0])} classes; predict more at once, or train "
                "with model.normalization='support'",
                stacklevel=2,
            )
        values = self._predict(self.params, self._support, jnp.asarray(query))
        prediction = self._named(np.asarray(values))
        if self._batched:
            return prediction
        return Prediction(*(of[0] if len(of) else of for of in prediction))

    def _named(self, values: np.ndarray) -> Prediction:
        if not self.classes:
            return Prediction(values)
        best = values.argmax(-1)
        labels = [[of[i] for i in row] for of, row in zip(self.classes, best, strict=True)]
        return Prediction(values, np.asarray(jax.nn.softmax(values)), labels, self.classes)
