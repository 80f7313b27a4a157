"""The objective on a mini-batch: posteriors are drawn, decoded, and folded into one differentiable expectation."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vaekit.batch import Batch
from vaekit.estimators import Enumerate, Estimator, Pathwise, ScoreFunction
from vaekit.graph.cost_terms import CostTerm
from vaekit.graph.dependencies import Node
from vaekit.graph.fold import Estimate
from vaekit.graph.sampling import sample_graph
from vaekit.models.objectives import LatentPrior, Objective
from vaekit.models.vae_networks import VAENetworks


def compute_loss(
    networks: VAENetworks,
    batch: Batch,
    nodes: list[Node],
    h: Tensor,
    estimators: Mapping[str, Estimator],
    objective: Objective,
    kl_weight: float,
    check_paths: bool,
) -> Estimate:
    """Return an objective and its terms at given posteriors.

    Parameters
    ----------
    networks
        The model's.
    batch
        The mini-batch.
    nodes
        Posteriors of the latents, parents first: those that ``networks`` makes of ``h``, or others of their kind.
    h
        Encoder features, ``[*replicates, batch, width]``: what baselines see.
    estimators
        Of each latent.
    objective
        What is maximised.
    kl_weight
        Weight of the KL divergences.
    check_paths
        Whether to look for the gradient paths that estimators rely on.
    """
    drawn = objective.prepare(sample_graph(nodes, estimators, num_samples=objective.num_samples, context=h))
    values = drawn.values
    reconstruction = CostTerm(-networks.log_likelihood(values, batch), networks.seen_by_decoder)
    divergences = {
        name: LatentPrior(networks.prior(name, values, h), latent.parents) for name, latent in networks.latents.items()
    }
    return objective.compute_loss(drawn, reconstruction, divergences, kl_weight, check_paths)


def evaluation_estimator(estimator: Estimator) -> Estimator:
    """Return what evaluates a node whose gradient is not wanted: discrete draws, no relaxation, nothing learned."""
    kept = isinstance(estimator, Enumerate) or (isinstance(estimator, Pathwise) and not estimator.stick_the_landing)
    return estimator if kept else ScoreFunction()
