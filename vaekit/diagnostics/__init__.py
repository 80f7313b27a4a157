"""Diagnostics of models: held-out likelihood, use of the latents, generation and the noise of gradients."""

from vaekit.diagnostics.agreement import Agreement, label_agreement
from vaekit.diagnostics.code_table import code_table
from vaekit.diagnostics.evaluation import Evaluation, evaluate_model
from vaekit.diagnostics.generation import category_means, decoded_mean, latent_traversal, prior_means, sample_prior
from vaekit.diagnostics.gradients.estimator_catalog import compatible_estimators, is_unbiased
from vaekit.diagnostics.gradients.model_report import model_gradient_report
from vaekit.diagnostics.gradients.report import gradient_report
from vaekit.diagnostics.importance import LikelihoodEstimate, importance_sampled_log_likelihood
from vaekit.diagnostics.usage import LatentUsage, code_columns, latent_usage, most_probable_codes, posterior_summaries

__all__ = [
    "Agreement",
    "Evaluation",
    "LatentUsage",
    "LikelihoodEstimate",
    "category_means",
    "code_columns",
    "code_table",
    "compatible_estimators",
    "decoded_mean",
    "evaluate_model",
    "gradient_report",
    "importance_sampled_log_likelihood",
    "is_unbiased",
    "label_agreement",
    "latent_traversal",
    "latent_usage",
    "model_gradient_report",
    "most_probable_codes",
    "posterior_summaries",
    "prior_means",
    "sample_prior",
]
