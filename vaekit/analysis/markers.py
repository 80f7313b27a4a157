"""What a discrete code stands for, from the model itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vaekit.analysis.decoding import batch_numbers, composition, evaluating, in_batch
from vaekit.analysis.prior_given import Code, draw_given
from vaekit.analysis.query import query_for
from vaekit.analysis.source import check_in_memory, opened, provenance, reference_of
from vaekit.batch import Batch
from vaekit.data.dataset import as_is
from vaekit.diagnostics import latent_use, posterior_summaries
from vaekit.exceptions import DataError, nearest
from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

USED = 0.01  # mean posterior probability of a code in use


def markers(
    adata: AnnData,
    model: VAE | str | Path,
    latent: str = "y",
    *,
    n_genes: int = 20,
    layer: str | None = None,
    batch_key: str | None = None,
    key_added: str = "vaekit_markers",
    num_samples: int = 200,
    batch_size: int = 1024,
    progress: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    r"""List the genes that set each code of a discrete latent apart, by the model's own composition.

    .. math::
        \log_2 \rho_g(c) - \log_2 \frac{\sum_{c' \ne c} u_{c'}\, \rho_g(c')}{\sum_{c' \ne c} u_{c'}}, \qquad
        \rho_g(c) = E_{p(\mathrm{others} | c)}[\rho_g]

    with the use u of the codes, their mean posterior probability over the cells. The other latents are drawn from
    their joint prior given the code: where the code chooses the component of a mixture, from that component; where it
    depends on other latents, these as they are where the model has this code. Other variables of the same latent are
    drawn from their use; batches by turns, other covariates from the cells.

    Parameters
    ----------
    adata
        Cells with counts, which tell the use of the codes; changed in ``.uns`` alone.
    model
        A trained model, or the path of its checkpoint.
    latent
        Name of a discrete latent.
    n_genes
        Genes a code: those of the highest log ratio.
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
        ``n_genes`` rows for each code in use (a mean probability above 0.01), the most used code first:
        ``code`` (``"3"``; ``"1:3"`` for state 3 of variable 1 where there are several variables, or bits), ``use``,
        ``gene``, ``log2_ratio``, ``scale`` and ``scale_others`` (the two compositions).

    Sets the following field:

    ``adata.uns[key_added]``
        The table as ``"table"``, and where it comes from.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression, or its likelihood has no composition.
    DataError
        If there is no such latent, it is not discrete, its cells use one code only, or the cells do not fit the model.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    check_in_memory(adata)
    model, checkpoint = opened(model)
    _check(model, latent, n_genes, num_samples)
    query = query_for(model, adata, layer, batch_key)
    loader = DataLoader(query.dataset, batch_size=batch_size, collate_fn=as_is)
    genes = np.array(reference_of(model)["feature_names"])
    with evaluating(model, seed):
        summaries = posterior_summaries(model, tqdm(loader, desc="embedding", unit="batch", disable=not progress))
        usage = latent_use(model, summaries).code_usage
        rows = torch.linspace(0, len(query.dataset) - 1, num_samples).long()
        cells = query.dataset.__getitems__(rows).to(model.device)
        if batches := len(batch_numbers(model, None)):
            cells = in_batch(cells, torch.arange(num_samples, device=model.device) % batches, batches)
        tables = []
        for variable, use in enumerate(usage[latent]):
            used = [state for state in range(len(use)) if use[state] > USED]
            scale = np.array([_scale(model, Code(latent, variable, state), usage, cells) for state in used])
            for number, state in enumerate(used if len(used) > 1 else []):
                weight = use[used].double().numpy()
                weight[number] = 0
                others = weight @ scale / weight.sum()
                ratio = np.log2(scale[number]) - np.log2(others)
                top = np.argsort(-ratio, kind="stable")[:n_genes]
                code = (
                    str(state)
                    if len(usage[latent]) == 1 and model.latents[latent].event_dims > 1  # bits are numbered
                    else f"{variable}:{state}"
                )
                tables.append(
                    pd.DataFrame(
                        {
                            "code": code,
                            "use": float(use[state]),
                            "gene": genes[top],
                            "log2_ratio": ratio[top],
                            "scale": scale[number][top],
                            "scale_others": others[top],
                        }
                    )
                )
    if not tables:
        raise DataError(f"latent={latent!r}: these cells use one code only: there is nothing to compare it with")
    table = pd.concat(sorted(tables, key=lambda part: -part["use"].iloc[0]), ignore_index=True)
    adata.uns[key_added] = {"table": table, "latent": latent, **provenance(model, query.missing_genes, checkpoint)}
    return table


def _check(model: VAE, latent: str, n_genes: int, num_samples: int) -> None:
    discrete = [name for name, one in model.latents.items() if one.discrete]
    if latent not in discrete:
        what = "is not discrete" if latent in model.latents else "does not exist"
        raise DataError(f"latent={latent!r} {what} in this model; {nearest(latent, discrete)}")
    if n_genes < 1 or num_samples < 1:
        raise DataError(f"n_genes is {n_genes} and num_samples {num_samples}: at least 1 is needed")


def _scale(model: VAE, code: Code, usage: dict[str, Tensor], cells: Batch) -> np.ndarray:
    """Return the mean composition at a code, float64 ``[genes]``."""
    values = draw_given(model, code, usage[code.latent], cells.x)
    return composition(model, values, cells).double().mean(0).cpu().numpy()
