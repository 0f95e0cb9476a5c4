"""The meta-objective of one task, which meta-training minimizes."""

import dataclasses

import jax
import jax.numpy as jnp

from maml_jax import keys
from maml_jax.inner.adapt import InnerLoop
from maml_jax.lengths.cost import LearnedLengths
from maml_jax.types import Array, LossFn, MetaParams, Metrics, Params, PyTree, StepWeightsFn


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


def as_metrics(aux: PyTree) -> Metrics:
    """The aux of a loss if it is a dict; no metrics otherwise."""
    return aux if isinstance(aux, dict) else {}


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
    """

    inner_loop: InnerLoop
    query_loss: LossFn
    _: dataclasses.KW_ONLY
    step_weights: StepWeightsFn | None = None
    lengths: LearnedLengths | None = None

    def __call__(
        self, meta_params: MetaParams, episode: PyTree, key: Array, step: Array, extras: PyTree
    ) -> tuple[Array, tuple[Metrics, PyTree]]:
        """The loss of one task at a meta-step."""
        support, query = episode
        of_task = keys.split_objective_key(key)

        def query_loss(params: Params, k: Array) -> tuple[Array, PyTree]:
            del k
            return self.query_loss(params, query, of_task.query)

        inner_loop = self.inner_loop
        if self.lengths is not None:
            gates = self.lengths.gates_of_task(step, of_task.gates)
            inner_loop = dataclasses.replace(inner_loop, gates=gates)
        if self.step_weights is None:
            adaptation = inner_loop(meta_params, support, of_task.adapt)
            loss, aux = query_loss(adaptation.params, jnp.zeros((), jnp.int32))
            final_loss = loss
        else:
            adaptation = inner_loop(meta_params, support, of_task.adapt, monitor=query_loss)
            losses, all_aux = adaptation.monitored
            loss = jnp.sum(self.step_weights(step) * losses[1:])
            final_loss, aux = losses[-1], jax.tree.map(lambda leaf: leaf[-1], all_aux)
        metrics = {"query_loss": final_loss, **as_metrics(aux)}
        if adaptation.losses.size:
            metrics["support_loss"] = adaptation.losses[0]
        if self.lengths is not None:
            penalty, cost, extras = self.lengths.penalty(meta_params, step, extras)
            metrics |= {"cost": cost, **as_metrics(extras)}
            loss = loss + penalty
        return loss, (metrics, extras)
