"""Loss of a mini-batch: posteriors are sampled, decoded and folded into one differentiable expectation."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vaekit.batch import Batch
from vaekit.estimators import Estimator, ScoreFunction
from vaekit.graph.cost_terms import CostTerm
from vaekit.graph.dependencies import Node
from vaekit.graph.fold import Estimate
from vaekit.graph.sampling import sample_graph
from vaekit.models.labeled_decoding import log_likelihood
from vaekit.models.objectives import ELBO, LatentPrior, Objective
from vaekit.models.regularizers import Regularizer
from vaekit.models.vae_networks import VAENetworks

TRUE_ELBO = ELBO()

ADDED_TERMS = ("label_loss", "penalty")  # of the loss, which are not part of the ELBO


def batch_loss(
    networks: VAENetworks,
    estimators: Mapping[str, Estimator],
    batch: Batch,
    objective: Objective,
    kl_weight: float,
    regularizer: Regularizer | None = None,
    check_paths: bool = False,
) -> Estimate:
    """Encode a mini-batch and return the loss and its terms.

    ``total`` and the terms include ``label_loss`` of the known labels
    (:meth:`vaekit.latents.observed_labels.ObservedLabels.loss`), if the model learns from labels, and the regularizer's
    ``penalty``.
    """
    x = networks.likelihood.encoder_input(batch)
    h = networks.features(x, batch.covariates)
    nodes = networks.nodes(h, batch.observed_label)
    result = compute_loss(networks, batch, nodes, h, estimators, objective, kl_weight, check_paths)
    added = {}
    if (label_loss := networks.label_loss(h, batch.observed_label)) is not None:
        added["label_loss"] = label_loss
    if regularizer is not None:
        penalty = regularizer(networks.latents, h, x, lambda x: networks.features(x, batch.covariates))
        added["penalty"] = penalty.expand(len(x))
    if not added:
        return result
    terms = {**result.terms, **{name: value.detach() for name, value in added.items()}}
    return result._replace(total=result.total + sum(added.values()), terms=terms)


def negative_elbo(
    networks: VAENetworks, estimators: Mapping[str, Estimator], batch: Batch, kl_weight: float
) -> Estimate:
    """Return the negative ELBO and its terms, from discrete samples of discrete latents and without known labels."""
    estimators = {name: evaluation_estimator(estimator) for name, estimator in estimators.items()}
    return batch_loss(networks, estimators, batch._replace(observed_label=None), TRUE_ELBO, kl_weight)


def evaluation_estimator(estimator: Estimator) -> Estimator:
    """Return an estimator of the value only: its samples are discrete, without a relaxation or learned parameters."""
    return estimator if estimator.suits_evaluation else ScoreFunction()


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
    """Return the loss and its terms for given posteriors.

    Parameters
    ----------
    networks : VAENetworks
        Networks of the model.
    batch : Batch
        The mini-batch.
    nodes : list[Node]
        Posteriors of the latents, parents first: the result of
        :meth:`vaekit.models.vae_networks.VAENetworks.nodes`, or replicates of it.
    h : Tensor, shape (*replicates, batch, width)
        Encoder features, also the input of learned baselines.
    estimators : Mapping[str, Estimator]
        Gradient estimator of each latent, by name.
    objective : Objective
        The objective, whose negative is the loss.
    kl_weight : float
        Weight of the KL divergences.
    check_paths : bool
        Whether to check that the cost has the gradient paths that the estimators require.
    """
    samples = objective.prepare(sample_graph(nodes, estimators, num_samples=objective.num_samples, context=h))
    reconstruction = CostTerm(-log_likelihood(networks, samples, batch), networks.seen_by_decoder)
    priors = {
        name: LatentPrior(networks.prior(name, samples.values, h), latent.related)
        for name, latent in networks.latents.items()
    }
    return objective.compute_loss(samples, reconstruction, priors, kl_weight, check_paths)
