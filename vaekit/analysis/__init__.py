"""Analysis of AnnData with a trained model, by scverse's conventions: results go into the AnnData."""

from vaekit.analysis.code_tree import code_tree
from vaekit.analysis.decode import decode
from vaekit.analysis.differential_expression import differential_expression
from vaekit.analysis.embed import check_latent_fields, embed, latent_fields
from vaekit.analysis.integration import integration_scores
from vaekit.analysis.loadings import loadings
from vaekit.analysis.map_query import map_query
from vaekit.analysis.markers import markers
from vaekit.analysis.model_source import get_data_registry, prepare_query, resolve_model
from vaekit.analysis.normalized_expression import NormalizedExpressionWriter, normalized_expression
from vaekit.analysis.plot_umap import plot_umap
from vaekit.analysis.predict_labels import predict_labels
from vaekit.analysis.predictive_check import posterior_predictive_check
from vaekit.analysis.report import report
from vaekit.analysis.state_tables import States
from vaekit.analysis.states import assign_states, states
from vaekit.analysis.top_genes import plot_dotplot, plot_heatmap, top_genes
from vaekit.analysis.training_data import load_training_data
from vaekit.analysis.transfer_labels import check_label_fields, label_fields, transfer_labels
from vaekit.plotting.analysis_figures import plot_predictive_check, plot_volcano
from vaekit.plotting.gene_figures import plot_markers
from vaekit.plotting.loading_figures import plot_loadings
from vaekit.plotting.reliability_figure import plot_reliability

__all__ = [
    "NormalizedExpressionWriter",
    "States",
    "assign_states",
    "check_label_fields",
    "check_latent_fields",
    "code_tree",
    "decode",
    "differential_expression",
    "embed",
    "get_data_registry",
    "integration_scores",
    "label_fields",
    "latent_fields",
    "load_training_data",
    "loadings",
    "map_query",
    "markers",
    "normalized_expression",
    "plot_dotplot",
    "plot_heatmap",
    "plot_loadings",
    "plot_markers",
    "plot_predictive_check",
    "plot_reliability",
    "plot_umap",
    "plot_volcano",
    "posterior_predictive_check",
    "predict_labels",
    "prepare_query",
    "report",
    "resolve_model",
    "states",
    "top_genes",
    "transfer_labels",
]
