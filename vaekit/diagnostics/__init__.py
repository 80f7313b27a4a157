"""How good a trained model is, whether it uses its latents, and how noisy its gradients are."""

from vaekit.diagnostics.evaluation import Evaluation, evaluate_model
from vaekit.diagnostics.generation import category_means, decoded_mean, prior_means, sample_prior, traversal
from vaekit.diagnostics.gradients.compatible_estimators import catalogue, is_unbiased
from vaekit.diagnostics.gradients.model_report import model_gradient_report
from vaekit.diagnostics.gradients.report import gradient_report
from vaekit.diagnostics.importance import LikelihoodEstimate, importance_sampled_log_likelihood
from vaekit.diagnostics.label_agreement import Agreement, agreement
from vaekit.diagnostics.latent_usage import LatentUse, codes_of, latent_use, posterior_summaries
from vaekit.plotting.gradient_figures import plot_gradient_report

__all__ = [
    "Agreement",
    "Evaluation",
    "LatentUse",
    "LikelihoodEstimate",
    "agreement",
    "catalogue",
    "category_means",
    "codes_of",
    "decoded_mean",
    "evaluate_model",
    "gradient_report",
    "importance_sampled_log_likelihood",
    "is_unbiased",
    "latent_use",
    "model_gradient_report",
    "plot_gradient_report",
    "posterior_summaries",
    "prior_means",
    "sample_prior",
    "traversal",
]
