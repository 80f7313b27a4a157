"""Commands whose result is a table of genes, also for Python: ``vaekit.cli.table_commands.de(...)``.

The signatures and docstrings are the command line (:mod:`vaekit.cli.command_parser`). Slow libraries are imported
inside the functions, so that the help of a command is fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vaekit._core.arguments import check_minimum, check_seed
from vaekit._core.figure_formats import FigureFormat
from vaekit.cli.analysis_task import TABLE, start_task

if TYPE_CHECKING:
    import pandas as pd

    from vaekit.plotting.figure_files import Figure

NUM_PRINTED, NUM_TOP = 10, 5  # genes of one comparison or code, and of each of several
GENE_BYTES = 500  # approximate size of a row


def de(
    checkpoint: str | Path,
    data: list[str] | None = None,
    *,
    groupby: str | None = None,
    group1: list[str] | None = None,
    group2: str | None = None,
    replicate_key: str | None = None,
    output: str | Path,
    delta: float = 0.25,
    fdr: float = 0.05,
    num_samples: int | None = None,
    seed: int = 0,
    layer: str | None = None,
    genes_in: str | None = None,
    batch_key: str | None = None,
    figure: FigureFormat = "png",
    overwrite: bool = False,
) -> None:
    """Compare the expression of genes between groups of cells.

    The sorted table contains probabilities, log2 fold changes and the genes called at an expected false discovery
    rate. The figure is a volcano plot, or for several comparisons a dot plot.

    Parameters
    ----------
    checkpoint, data, layer, batch_key, overwrite, figure
        As for every command (:data:`vaekit.cli.common_arguments.DESCRIPTIONS`).
    groupby : str, optional
        Column of obs with the groups. None: groups are conditions such as "cell_type == 'B'".
    group1 : list of str, optional
        Groups, each compared with group2. None: every group.
    group2 : str, optional
        Second group. None: all other cells.
    replicate_key : str, optional
        Column of obs with replicates, such as donors. Errors then include their variance.
    output : str or Path
        .csv file to write. The figure has the same name with the ending .png.
    delta : float
        Smallest log2 fold change of interest.
    fdr : float
        Expected fraction of false discoveries.

    Other Parameters
    ----------------
    num_samples : int, optional
        Number of samples of the latents per cell. None: 2 for many cells, up to 10 for few.
    seed, genes_in
        As for every command.

    Examples
    --------
    vaekit de RUN/last.ckpt cells.h5ad --groupby cell_type --group1 B --group2 T -o b_t.csv
    """
    from vaekit.analysis import differential_expression

    check_seed(seed)
    task = start_task(
        checkpoint, data, output, TABLE, layer=layer, genes_in=genes_in, overwrite=overwrite, figure=figure
    )
    task.check_room(GENE_BYTES * task.model.features)
    table = differential_expression(
        task.input.cells, task.model, groupby, group1, group2, replicate_key=replicate_key, delta=delta, fdr=fdr,
        layer=task.input.layer, batch_key=batch_key, num_samples=num_samples, progress=True, seed=seed,
    )  # fmt: skip
    task.write_table(table)
    task.finish(lambda: _de_figure(table), _print_comparisons(table, f"is_de_fdr_{fdr}"))


def _de_figure(table: pd.DataFrame) -> Figure | None:
    """Return the volcano plot of one comparison, or the dot plot of several; None if that has no genes."""
    from vaekit.analysis import plot_dotplot, plot_volcano, top_genes

    if table["comparison"].nunique() == 1:
        return plot_volcano(table)
    return None if top_genes(table).empty else plot_dotplot(table)


def _print_comparisons(table: pd.DataFrame, decision: str) -> str:
    """Print the first genes of one comparison, or the called and top genes of each; return a summary."""
    from vaekit.analysis import top_genes

    num_called = int(table[decision].sum())
    names = table["comparison"].unique()
    if len(names) == 1:
        print(table[["proba_de", "lfc_median", "raw_mean1", "raw_mean2", decision]].head(NUM_PRINTED).to_string())
        return f"{names[0]}, {num_called} of {len(table)} genes called"
    top = top_genes(table, NUM_TOP)
    for name in names:
        genes = ", ".join(top.loc[top["comparison"] == name, "gene"]) or "none"
        print(f"{name}: {int(table.loc[table['comparison'] == name, decision].sum())} genes called; higher: {genes}")
    missing = "" if len(top) else "; no dot plot, because no gene is called"
    return f"{len(names)} comparisons, {num_called} of {len(table)} rows called{missing}"


def markers(
    checkpoint: str | Path,
    data: list[str] | None = None,
    *,
    output: str | Path,
    latent: str | None = None,
    n_genes: int = 20,
    num_samples: int = 200,
    seed: int = 0,
    layer: str | None = None,
    genes_in: str | None = None,
    batch_key: str | None = None,
    figure: FigureFormat = "png",
    overwrite: bool = False,
) -> None:
    """List the genes that distinguish each code of a discrete latent, or each topic.

    The table has a row per code and gene, with the log2 fold change to the other codes in the model. The cells
    determine how often a code is used. The figure is a heat map of the top genes in all codes.

    Parameters
    ----------
    checkpoint, data, layer, batch_key, overwrite, figure
        As for every command (:data:`vaekit.cli.common_arguments.DESCRIPTIONS`).
    output : str or Path
        .csv file to write. The figure has the same name with the ending .png.
    latent : str, optional
        Name of a discrete or Dirichlet latent. None: the only one.
    n_genes : int
        Number of genes per code.

    Other Parameters
    ----------------
    num_samples : int
        Number of samples of the other latents per code.
    seed, genes_in
        As for every command.

    Examples
    --------
    vaekit markers RUN/last.ckpt cells.h5ad -o markers.csv
    """
    from vaekit.analysis import markers as find_markers
    from vaekit.analysis import plot_markers
    from vaekit.analysis.markers import find_latent_with_states

    check_seed(seed)
    check_minimum(1, n_genes=n_genes, num_samples=num_samples)
    task = start_task(
        checkpoint, data, output, TABLE, layer=layer, genes_in=genes_in, overwrite=overwrite, figure=figure
    )
    latent = find_latent_with_states(task.model, latent)
    task.check_room(GENE_BYTES * n_genes * task.model.latents[latent].size)
    table = find_markers(
        task.input.cells, task.model, latent, n_genes=task.model.features, layer=task.input.layer, batch_key=batch_key,
        num_samples=num_samples, progress=True, seed=seed,
    )  # fmt: skip
    top = table.groupby("code", sort=False).head(n_genes)
    task.write_table(top, index=False)
    codes = top.groupby("code", sort=False)
    for code, part in codes:
        print(f"{latent} = {code} ({part['n_cells'].iloc[0]} cells): {', '.join(part['gene'].head(NUM_PRINTED))}")
    title = f"top genes of each code of {latent}, by usage"
    task.finish(lambda: plot_markers(table, min(n_genes, NUM_TOP), title), f"{codes.ngroups} codes of {latent}")


def loadings(
    checkpoint: str | Path,
    data: list[str] | None = None,
    *,
    output: str | Path,
    n_genes: int = 20,
    layer: str | None = None,
    genes_in: str | None = None,
    batch_key: str | None = None,
    figure: FigureFormat = "png",
    overwrite: bool = False,
) -> None:
    """List the genes of each unit of a linear or additive decoder, in both directions.

    The table has a row per unit, direction and gene: the log2 fold change of the expression at the end of the unit's
    range over the cells, the loading, and the strength of the unit. The figure shows the top genes of each unit.

    Parameters
    ----------
    checkpoint, data, layer, batch_key, overwrite, figure
        As for every command (:data:`vaekit.cli.common_arguments.DESCRIPTIONS`).
    output : str or Path
        .csv file to write. The figure has the same name with the ending .png.
    n_genes : int
        Number of genes per unit and direction.

    Other Parameters
    ----------------
    genes_in
        As for every command.

    Examples
    --------
    vaekit loadings RUN/last.ckpt -o loadings.csv
    """
    from vaekit.analysis import loadings as compute_loadings
    from vaekit.analysis import plot_loadings
    from vaekit.analysis.loadings import check_readable

    check_minimum(1, n_genes=n_genes)
    task = start_task(
        checkpoint, data, output, TABLE, layer=layer, genes_in=genes_in, overwrite=overwrite, figure=figure
    )
    check_readable(task.model)
    num_units = sum(task.model.latents[name].size for name in task.model.networks.decoded)
    task.check_room(2 * GENE_BYTES * n_genes * num_units)
    table = compute_loadings(
        task.model, task.input.cells, n_genes=n_genes, layer=task.input.layer, batch_key=batch_key, progress=True
    )
    task.write_table(table, index=False)
    for (latent, unit, direction), part in table.groupby(["latent", "unit", "direction"], sort=False):
        print(f"{latent} {unit} {direction}: {', '.join(part['gene'].head(NUM_PRINTED))}")
    num_units = table.groupby(["latent", "unit"]).ngroups
    task.finish(
        lambda: plot_loadings(table, min(n_genes, NUM_TOP)), f"{num_units} units, {n_genes} genes per direction"
    )


def ppc(
    checkpoint: str | Path,
    data: list[str] | None = None,
    *,
    output: str | Path,
    num_samples: int = 5,
    seed: int = 0,
    layer: str | None = None,
    genes_in: str | None = None,
    batch_key: str | None = None,
    figure: FigureFormat = "png",
    overwrite: bool = False,
) -> None:
    """Compare the counts with replicates from the model (posterior predictive check).

    The table has the mean, variance and fraction of zeros of each gene, in the data and in the replicates. The figure
    shows them for all genes.

    Parameters
    ----------
    checkpoint, data, layer, batch_key, overwrite, figure
        As for every command (:data:`vaekit.cli.common_arguments.DESCRIPTIONS`).
    output : str or Path
        .csv file to write. The figure has the same name with the ending .png.
    num_samples : int
        Number of replicates per cell.

    Other Parameters
    ----------------
    seed, genes_in
        As for every command.

    Examples
    --------
    vaekit ppc RUN/last.ckpt cells.h5ad -o ppc.csv
    """
    from vaekit.analysis import plot_predictive_check, posterior_predictive_check

    check_seed(seed)
    check_minimum(1, num_samples=num_samples)
    task = start_task(
        checkpoint, data, output, TABLE, layer=layer, genes_in=genes_in, overwrite=overwrite, figure=figure
    )
    task.check_room(GENE_BYTES * task.model.features)
    table = posterior_predictive_check(
        task.input.cells, task.model, layer=task.input.layer, batch_key=batch_key, num_samples=num_samples,
        progress=True, seed=seed,
    )  # fmt: skip
    task.write_table(table)
    error = (table["zero_fraction"] - table["zero_fraction_replicated"]).abs().mean()
    ratio = (table["variance_replicated"] / table["variance"])[table["variance"] > 0].median()
    summary = f"{len(table)} genes, median variance {ratio:.2f} times the data's, zero fractions differ by {error:.3f}"
    task.finish(lambda: plot_predictive_check(table), summary)
