"""How good a trained model is, and whether it uses its latents."""

from vaekit.diagnostics.agreement import Agreement, agreement
from vaekit.diagnostics.evaluation import Evaluation, evaluate_model
from vaekit.diagnostics.importance import LikelihoodEstimate, importance_sampled_log_likelihood
from vaekit.diagnostics.latents import LatentUse, codes_of, latent_use, posterior_summaries

__all__ = [
    "Agreement",
    "Evaluation",
    "LatentUse",
    "LikelihoodEstimate",
    "agreement",
    "codes_of",
    "evaluate_model",
    "importance_sampled_log_likelihood",
    "latent_use",
    "posterior_summaries",
]
