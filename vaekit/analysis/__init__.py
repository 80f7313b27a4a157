"""Analysis of AnnData with a trained model, by scverse's conventions: results go into the AnnData."""

from vaekit.analysis.embed import embed, query_for, write_latents
from vaekit.analysis.source import reference_of, training_data

__all__ = ["embed", "query_for", "reference_of", "training_data", "write_latents"]
