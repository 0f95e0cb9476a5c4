"""The meta-objective of one task, which meta-training minimizes."""

import dataclasses
from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp

from maml_jax import keys
from maml_jax.checks import check_meta_params, loss_and_aux, support_and_query
from maml_jax.inner.adapt import InnerLoop
from maml_jax.lengths.cost import LearnedLengths
from maml_jax.params import with_paths
from maml_jax.types import (
    Array,
    LossFn,
    Made,
    MetaParams,
    Metrics,
    Params,
    PyTree,
    StepWeightsFn,
)


def multi_step_weights(num_steps: int, anneal_steps: int) -> StepWeightsFn:
    """Weights of the multi-step loss of MAML++, Σ_k w_k L_query(θ_k), k = 1 … K.

    All weights start at 1/K. Over `anneal_steps` meta-steps, those of k < K decrease linearly to
    0.03/K, and the last weight increases so that the sum stays 1.

    Args:
      num_steps: K ≥ 1.
      anneal_steps: number of meta-steps until the last loss has almost all of the weight.

    Raises:
      ValueError: num_steps or anneal_steps is below 1.

    References:
      Antoniou, Edwards, Storkey, How to train your MAML, ICLR 2019, arXiv:1810.09502.
    """
    if num_steps < 1 or anneal_steps < 1:
        raise ValueError(
            f"multi-step loss with num_steps={num_steps}, anneal_steps={anneal_steps}; "
            "both must be at least 1"
        )

    def weights(step: Array) -> Array:
        uniform = 1.0 / num_steps
        early = jnp.maximum(uniform * (1 - step / anneal_steps), 0.03 * uniform)
        return jnp.full(num_steps, early).at[-1].set(1 - (num_steps - 1) * early)

    return weights


# Metrics that the library reports itself.
OWN_METRICS = ("loss", "query_loss", "support_loss", "nonfinite_tasks", "skipped_updates")
_REAL = (jnp.floating, jnp.integer, jnp.bool_)


def as_metrics(aux: PyTree, own: Collection[str] = OWN_METRICS) -> Metrics:
    """The metrics in the aux of a loss: path -> floats if it is a dict, which may be nested.

    Those of `Made` are in its `metrics`.

    Raises:
      TypeError: an entry is complex or a random key.
      ValueError: an entry has the name of one of the `own` metrics.
    """
    metrics: Metrics = {}
    aux = aux.metrics if isinstance(aux, Made) else aux
    for name, leaf in with_paths(aux).items() if isinstance(aux, Mapping) else ():
        value = jnp.asarray(leaf)
        if name in own:
            raise ValueError(
                f"the aux of the query loss has an entry {name!r}, which is the name of a metric "
                "of maml_jax; use another name"
            )
        if not any(jnp.issubdtype(value.dtype, kind) for kind in _REAL):
            raise TypeError(f"metric {name!r} has dtype {value.dtype}; use real numbers")
        metrics[name] = value.astype(jnp.promote_types(value.dtype, jnp.float32))
    return metrics


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """The query loss of one adapted task, plus the penalty of learned lengths.

    Called as objective(meta_params, episode, key, step, extras) -> (loss [], (metrics, extras)).

    Attributes:
      inner_loop: adapts to the support data.
      query_loss: (params, query, key) -> (loss [], aux). A dict aux is reported as metrics. It may
        generate its own query data from the adapted parameters and the key.
      step_weights: weights w of the multi-step loss Σ_k w_k L_query(θ_k), which is evaluated inside
        the scan; None uses the loss after the last step.
      lengths: the gates of learned lengths, and the penalty that is added to the loss. With a
        budget, the extras of the state are {"dual": λ}, where λ starts at 0.

    Raises:
      ValueError: `step_weights` or `lengths` with an estimator that differentiates the
        initialization alone.
    """

    inner_loop: InnerLoop
    query_loss: LossFn
    _: dataclasses.KW_ONLY
    step_weights: StepWeightsFn | None = None
    lengths: LearnedLengths | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        for name in ("step_weights", "lengths"):
            if self.inner_loop.estimator.only_init and getattr(self, name) is not None:
                raise ValueError(
                    f"{name} would have no gradient with this meta_gradient, which differentiates "
                    "the initialization alone, through the adapted parameters; leave out "
                    f"{name}, or use meta_gradient='exact'"
                )

    def check_learned(self, meta_params: MetaParams, learned: Collection[str]) -> None:
        """Checks that learned fields of MetaParams have a gradient.

        Raises:
          ValueError: a field is empty, or its gradient is 0 by construction.
        """
        inner_loop = self.inner_loop
        if self.lengths is not None:
            inner_loop = dataclasses.replace(inner_loop, gates=self.lengths.gates.soft())
        for field in learned:
            if not jax.tree.leaves(getattr(meta_params, field)):
                reason: str | None = f"MetaParams.{field} is empty"
            else:
                reason = inner_loop.why_constant(meta_params, field)
            if reason is not None:
                raise ValueError(
                    f"{field!r} is learned, but has no gradient: {reason}; leave it out of "
                    "outer_chain or TrainStep(learned=...), or change the inner loop"
                )

    def __call__(
        self, meta_params: MetaParams, episode: PyTree, key: Array, step: Array, extras: PyTree
    ) -> tuple[Array, tuple[Metrics, PyTree]]:
        """The loss of one task at a meta-step.

        Raises:
          TypeError: an argument or the result of the loss is of another type.
          ValueError: the loss is no scalar, a metric has a reserved name, or the number of step
            weights is not that of the inner steps.
        """
        check_meta_params(meta_params)
        support, query = support_and_query(episode)
        of_task = keys.split_objective_key(key)

        def query_loss(params: Params, k: Array) -> tuple[Array, PyTree]:
            del k
            result = self.query_loss(params, query, of_task.query)
            return loss_and_aux(result, "query_loss")

        inner_loop = self._loop_of_task(step, of_task.gates)
        if self.step_weights is None:
            adaptation = inner_loop(meta_params, support, of_task.adapt)
            loss, aux = query_loss(adaptation.params, jnp.zeros((), jnp.int32))
            final_loss = loss
        else:
            adaptation = inner_loop(meta_params, support, of_task.adapt, monitor=query_loss)
            losses, all_aux = adaptation.monitored
            loss = jnp.sum(self._weights(step) * losses[1:])
            final_loss, aux = losses[-1], jax.tree.map(lambda leaf: leaf[-1], all_aux)
        metrics = {"query_loss": final_loss, **as_metrics(aux)}
        if adaptation.losses.size:
            metrics["support_loss"] = adaptation.losses[0]
        if self.lengths is not None:
            penalty, cost, extras = self.lengths.penalty(meta_params, step, extras)
            metrics |= as_metrics({"cost": cost, **as_metrics(extras)}, metrics)
            loss = loss + penalty
        return loss, (metrics, extras)

    def _loop_of_task(self, step: Array, key: Array) -> InnerLoop:
        """The inner loop with the gates of training."""
        if self.lengths is None:
            return self.inner_loop
        return dataclasses.replace(self.inner_loop, gates=self.lengths.gates_of_task(step, key))

    def record(self, meta_params: MetaParams, episode: PyTree, key: Array, step: Array) -> PyTree:
        """The episode with the data that the losses of one task make, whose aux must be `Made`.

        On it the objective has the same value and derivatives as on the task, at these
        meta-parameters. It can be evaluated at others too, as a line search does, since the losses
        make nothing anew. `InnerLoop.support_at` takes what was made at step k.

        Returns:
          (support [K, ...], query), constants of every derivative.

        Raises:
          ValueError: there are step weights, or a loss does not return what it makes.
        """
        if self.step_weights is not None:
            raise ValueError(
                "step_weights need data for every step, but only those after the last are recorded;"
                " leave out step_weights, or use TrainStep(record=False)"
            )
        support, query = support_and_query(episode)
        of_task = keys.split_objective_key(key)
        inner_loop = self._loop_of_task(step, of_task.gates)
        adaptation = inner_loop(meta_params, support, of_task.adapt)
        _, of_query = self.query_loss(adaptation.params, query, of_task.query)
        of_support = adaptation.aux if inner_loop.num_steps else Made(support, {})
        for name, aux in (("loss", of_support), ("query_loss", of_query)):
            if not isinstance(aux, Made):
                raise ValueError(f"{name} makes no data to record; return (loss, Made(data, {{}}))")
        recorded: PyTree = jax.lax.stop_gradient((of_support.data, of_query.data))
        return recorded

    def _weights(self, step: Array) -> Array:
        assert self.step_weights is not None
        weights, num_steps = self.step_weights(step), self.inner_loop.num_steps
        if jnp.shape(weights) not in ((), (num_steps,)):
            raise ValueError(
                f"step_weights returns weights of shape {jnp.shape(weights)}; return one for each "
                f"of the {num_steps} inner steps, as multi_step_weights({num_steps}, ...)"
            )
        return weights
