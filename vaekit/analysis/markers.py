"""What a discrete code or a topic stands for, from the model itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vaekit.analysis.decoding import composition, evaluating, set_batch
from vaekit.analysis.fields import check_free
from vaekit.analysis.model_source import check_in_memory, get_data_registry, provenance, resolve_model
from vaekit.analysis.prior_samples import Code, sample_given_code
from vaekit.analysis.query import prepare_query
from vaekit.batch import Batch
from vaekit.data.dataset import CountDataset, identity_collate
from vaekit.diagnostics import posterior_summaries
from vaekit.diagnostics.keyed_noise import observation_keys
from vaekit.exceptions import DataError, did_you_mean
from vaekit.latents.activity import ACTIVE_PROBABILITY
from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

PSEUDO_SHARE = 1e-4  # one count in 10,000, as in Seurat's fold changes


def markers(
    adata: AnnData,
    model: VAE | str | Path,
    latent: str = "y",
    *,
    n_genes: int = 20,
    pseudo_fraction: float = PSEUDO_SHARE,
    layer: str | None = None,
    batch_key: str | None = None,
    key_added: str = "vaekit_markers",
    num_samples: int = 200,
    batch_size: int = 1024,
    progress: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    r"""List the genes that set each code of a discrete latent, or each topic, apart, by the model's own composition.

    .. math::
        \log_2 \frac{\rho_g(c) + \epsilon}{\bar\rho_g(c) + \epsilon}, \qquad
        \bar\rho_g(c) = \frac{\sum_{c' \ne c} u_{c'}\, \rho_g(c')}{\sum_{c' \ne c} u_{c'}}, \qquad
        \rho_g(c) = E_{p(\mathrm{others} | c)}[\rho_g]

    with the use u of the codes, their mean posterior probability over the cells. The pseudo-share epsilon keeps genes
    that are hardly expressed anywhere, of which ratios are large by chance, from the top. The other latents are drawn
    from their joint prior given the code: where the code chooses the component of a mixture, from that component;
    where it depends on other latents, these as they are where the model has this code. Other variables of the same
    latent are drawn from their use; batches by turns, other covariates from the cells.

    Of a Dirichlet latent, a code is a topic, its use the mean proportion, and its composition that of a cell of this
    topic alone.

    Parameters
    ----------
    adata
        Cells with counts, which tell the use of the codes; changed in ``.uns`` alone.
    model
        A trained model, or the path of its checkpoint.
    latent
        Name of a discrete or Dirichlet latent.
    n_genes
        Genes a code: those of the highest log ratio.
    pseudo_fraction
        What is added to both shares of the ratio; 0: nothing. The default is one count in 10,000.
    layer, batch_key
        As in :func:`vaekit.analysis.embed`.
    key_added
        Key in ``.uns``.
    num_samples
        Draws of the other latents a code.
    batch_size
        Cells at a time.
    progress
        Whether to show a progress bar.
    seed
        Of the draws.

    Returns
    -------
    pandas.DataFrame
        ``n_genes`` rows for each code with a mean probability above 0.01 (whether or not it depends on the cell), the
        most used code first:
        ``code`` (``"3"``; ``"1:3"`` for state 3 of variable 1 where there are several variables, or bits), ``use``,
        ``n_cells`` (cells of which it is the most probable code, or the largest topic), ``gene``, ``log2_fold_change``,
        ``scale`` and ``scale_others`` (the two compositions, without the pseudo-share).

    Sets the following field:

    ``adata.uns[key_added]``
        The table as ``"table"``, and where it comes from.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression, or its likelihood has no composition.
    DataError
        If there is no such latent, it is neither discrete nor Dirichlet, its cells use one code only, a number is
        impossible, the cells do not fit the model, or ``key_added`` is taken.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    check_in_memory(adata)
    model, checkpoint = resolve_model(model)
    _check(model, latent, n_genes, num_samples, pseudo_fraction)
    check_free(adata, key_added, {}, key_added)
    query = prepare_query(model, adata, layer, batch_key)
    loader = DataLoader(query.dataset, batch_size=batch_size, collate_fn=identity_collate)
    genes = np.array(get_data_registry(model)["feature_names"])
    with evaluating(model, seed):
        summaries = posterior_summaries(model, tqdm(loader, desc="embedding", unit="batch", disable=not progress))
        probabilities = model.latents[latent].state_probabilities(summaries[latent])
        usage = probabilities.mean(0)
        n_cells = torch.nn.functional.one_hot(probabilities.argmax(-1), usage.shape[-1]).sum(0)
        rows = _spread(query.dataset, num_samples, batch_size, seed)
        cells = query.dataset.__getitems__(rows).to(model.device)
        if batches := len(get_data_registry(model)["batch_categories"]):
            cells = set_batch(cells, torch.arange(num_samples, device=model.device) % batches, batches)
        tables = []
        for variable, use in enumerate(usage):
            used = [state for state in range(len(use)) if use[state] > ACTIVE_PROBABILITY]
            scale = np.array([_scale(model, Code(latent, variable, state), usage, cells) for state in used])
            for number, state in enumerate(used if len(used) > 1 else []):
                weight = use[used].double().numpy()
                weight[number] = 0
                others = weight @ scale / weight.sum()
                with np.errstate(divide="ignore", invalid="ignore"):  # shares of 0 without a pseudo-share
                    ratio = np.log2(scale[number] + pseudo_fraction) - np.log2(others + pseudo_fraction)
                top = np.argsort(-ratio, kind="stable")[:n_genes]
                tables.append(
                    pd.DataFrame(
                        {
                            "code": model.latents[latent].state_name(variable, state),
                            "usage": float(use[state]),
                            "n_cells": int(n_cells[variable, state]),
                            "gene": genes[top],
                            "log2_fold_change": ratio[top],
                            "scale": scale[number][top],
                            "scale_others": others[top],
                        }
                    )
                )
    if not tables:
        raise DataError(f"latent={latent!r}: these cells use one code only: there is nothing to compare it with")
    table = pd.concat(sorted(tables, key=lambda part: -part["usage"].iloc[0]), ignore_index=True)
    adata.uns[key_added] = {
        "table": table.copy(),
        "latent": latent,
        "pseudo_fraction": pseudo_fraction,
        **provenance(model, query.missing_genes, checkpoint),
    }
    return table


def _spread(dataset: CountDataset, count: int, batch_size: int, seed: int) -> Tensor:
    """Return ``count`` rows at equal distances in an order of the cells that follows from their content."""
    rows = torch.arange(len(dataset))
    if dataset.covariates is None:  # then the cells only tell how many there are
        return rows[torch.linspace(0, len(rows) - 1, count).long()]
    keys = [observation_keys(dataset.__getitems__(part), seed) for part in rows.split(batch_size)]
    order = torch.from_numpy(np.concatenate(keys).argsort(kind="stable"))
    return order[torch.linspace(0, len(rows) - 1, count).long()]


def _check(model: VAE, latent: str, n_genes: int, num_samples: int, pseudo_fraction: float) -> None:
    possible = [name for name, one in model.latents.items() if one.state_shape]
    if latent not in possible:
        what = "is not discrete, nor proportions of topics," if latent in model.latents else "does not exist"
        raise DataError(f"latent={latent!r} {what} in this model. {did_you_mean(latent, possible)}")
    if n_genes < 1 or num_samples < 1:
        raise DataError(f"n_genes is {n_genes} and num_samples {num_samples}: at least 1 is needed")
    if not 0 <= pseudo_fraction < 1:
        raise DataError(
            f"pseudo_fraction is {pseudo_fraction}: a share from 0 to below 1 is needed, such as {PSEUDO_SHARE:g}, one "
            "count in 10,000"
        )


def _scale(model: VAE, code: Code, use: Tensor, cells: Batch) -> np.ndarray:
    """Return the mean composition at a code, float64 ``[genes]``."""
    discrete = model.latents[code.latent].discrete
    values = sample_given_code(model, code, use, cells.x) if discrete else _draw_at(model, code, cells.x)
    return composition(model, values, cells).double().mean(0).cpu().numpy()


def _draw_at(model: VAE, topic: Code, like: Tensor) -> dict[str, Tensor]:
    """Draw all latents with a topic's proportion at 1, each ``[draws, *event]``; a library size is left out."""
    values: dict[str, Tensor] = {}
    for name in model.networks.order:
        latent = model.latents[name]
        if name == topic.latent:
            share = like.new_zeros(len(like), latent.size)
            share[:, topic.state] = 1
            values[name] = share.log()
        elif not latent.is_nuisance:
            values[name] = model.networks.prior(name, values, like).expand(torch.Size([len(like)])).sample()
    return values
