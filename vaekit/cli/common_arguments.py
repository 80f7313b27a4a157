"""Descriptions of the arguments that several commands share."""

from __future__ import annotations

REFERENCE = "As for every command"  # beginning of a description in a docstring that is replaced by one of these
DESCRIPTIONS = {
    "checkpoint": "Checkpoint of a trained model, such as RUN/last.ckpt.",
    "data": "Files of cells: .h5ad, zarr, 10x (.h5 or directory), .loom, .h5mu, .csv or .tsv; or URLs of "
    ".h5ad or zarr. None: the training data.",
    "layer": "Layer with the counts ('raw' for .raw, 'X' for .X). None: as in training.",
    "genes_in": "Place of the genes: 'rows' or 'columns' of a .csv or .tsv file, or the name of a modality of an .h5mu "
    "file. None: as the names in the file show.",
    "batch_key": "Column of obs with the batch. None: as in training.",
    "color": "Columns of obs, or genes, that color the UMAP, besides batch and label.",
    "figure": "Format of the figure: png, pdf or svg. none: no figure.",
    "devices": "Number of GPUs, or of processes on a machine without a GPU, that share the cells. None: one process on "
    "the CPU.",
    "seed": "Seed of the samples.",
    "overwrite": "Replace the outputs if they exist.",
}
VALUE_NAMES = {  # in help
    **dict.fromkeys(("key_added", "layer", "latent", "category"), "NAME"),
    **dict.fromkeys(("group1", "group2"), "GROUP"),
    "color": "KEY",
    "covariates": "NAME=VALUE",
    "figure": "FORMAT",
    "genes": "GENE",
    "genes_in": "PLACE",
    "groupby": "COLUMN",
    "query": "FILE",
    "path": "FILE",
    "training_data": "FILE",
    "transform_batch": "BATCH",
}
