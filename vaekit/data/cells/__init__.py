"""Cells: counts with covariates from memory, h5ad files and zarr stores."""
