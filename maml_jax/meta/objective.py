"""What meta-training minimises, for ONE task."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from maml_jax.meta.cost import LearnedLengths
from maml_jax.types import Adaptation, Array, LossFn, MetaParams, Metrics, Params, PyTree

# adapt with everything bound but (meta_params, support, key) and keyword overrides
AdaptFn = Callable[..., Adaptation]
StepWeightsFn = Callable[[Array], Array]  # meta-step -> weights [K] of the K query losses
GATES = 2  # folded into an objective's key for the noise of gates
TaskObjective = Callable[
    [MetaParams, Any, Array, Array, PyTree], tuple[Array, tuple[Metrics, PyTree]]
]


def multi_step_weights(num_steps: int, anneal_steps: int) -> StepWeightsFn:
    """Weights of MAML++'s multi-step loss Σ_k w_k L_query(θ_k), k = 1 … K.

    All weights start at 1/K. Over `anneal_steps` meta-steps those of k < K fall linearly to
    0.03/K, and what they lose goes to the last one; Σ w = 1 throughout.

    Args:
      num_steps: K ≥ 1.
      anneal_steps: meta-steps until only the last loss counts (almost) alone.

    Returns:
      meta-step [] -> weights [K].

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


def make_objective(
    adapt_fn: AdaptFn,
    query_loss_fn: LossFn,
    *,
    step_weights: StepWeightsFn | None = None,
    lengths: LearnedLengths | None = None,
) -> TaskObjective:
    """The query loss of one adapted task.

    Args:
      adapt_fn: `adapt` with loss, optimizer and number of steps bound (functools.partial).
      query_loss_fn: (params, query, key) -> (loss [], aux). A dict aux is reported as metrics.
        It may make its own query data from the adapted params and the key.
      step_weights: None optimises the loss after the last step; otherwise the multi-step loss
        Σ_k w_k L_query(θ_k), evaluated inside the scan.
      lengths: learned lengths: their gates, and the cost that is added to the loss. The state's
        extras are {"dual": λ}, with λ = 0 to begin with, where they have a budget.

    Returns:
      objective(meta_params, episode, key, step, extras) -> (loss [], (metrics, extras)).
    """

    def objective(
        meta_params: MetaParams, episode: Any, key: Array, step: Array, extras: PyTree
    ) -> tuple[Array, tuple[Metrics, PyTree]]:
        support, query = episode
        adapt_key, query_key = jax.random.split(key)

        def query_loss(params: Params, k: Array) -> tuple[Array, PyTree]:
            del k
            return query_loss_fn(params, query, query_key)

        gates = {}
        if lengths is not None:
            gates = {"halting": lengths.gates(step, jax.random.fold_in(key, GATES))}
        if step_weights is None:
            adaptation = adapt_fn(meta_params, support, adapt_key, **gates)
            loss, aux = query_loss(adaptation.params, jnp.zeros((), jnp.int32))
            final_loss = loss
        else:
            adaptation = adapt_fn(meta_params, support, adapt_key, monitor=query_loss, **gates)
            losses, all_aux = adaptation.monitored
            loss = jnp.sum(step_weights(step) * losses[1:])
            final_loss, aux = losses[-1], jax.tree.map(lambda leaf: leaf[-1], all_aux)
        metrics = {"query_loss": final_loss, **(aux if isinstance(aux, dict) else {})}
        if adaptation.losses.size:
            metrics["support_loss"] = adaptation.losses[0]
        if lengths is not None:
            term, cost, extras = lengths.term(meta_params, step, extras)
            metrics |= {"cost": cost, **(extras if isinstance(extras, dict) else {})}
            loss = loss + term
        return loss, (metrics, extras)

    return objective
