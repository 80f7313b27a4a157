"""Data of ``vaekit evaluate``, and its result as text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from vaekit._core.urls import hide_credentials
from vaekit.exceptions import DataError, MissingPackageError

if TYPE_CHECKING:
    import pandas as pd
    from torch.utils.data import DataLoader

    from vaekit.diagnostics.evaluation import Evaluation
    from vaekit.models import VAE


class EvaluatedData(NamedTuple):
    """Data that a model is evaluated on.

    Attributes
    ----------
    batches : DataLoader
        Observations whose likelihood is computed.
    source : str
        Their name.
    scored_batches : DataLoader
        Cells whose integration is scored.
    scored_source : str
        Their name.
    """

    batches: DataLoader
    source: str
    scored_batches: DataLoader
    scored_source: str


@dataclass(frozen=True)
class EvaluationData:
    """Cells of a file, evaluated instead of the training data.

    Parameters
    ----------
    layer, batch_key
        As for every command (:data:`vaekit.cli.common_arguments.DESCRIPTIONS`).
    path : str, optional
        File whose cells are all evaluated. None: a split of the training data.
    label_key : str, optional
        Column of obs with labels. None: as in training, if the file has it.

    Other Parameters
    ----------------
    batch_size : int
        Observations per mini-batch, also for the training data.
    genes_in
        As for every command.
    """

    path: str | None = None
    layer: str | None = None
    batch_key: str | None = None
    label_key: str | None = None
    batch_size: int = 128
    genes_in: str | None = None

    def load(self, model: VAE, split: str | None) -> EvaluatedData:
        """Return the mini-batches to evaluate.

        Without a split, these are the test data for the likelihood, but all cells for the integration scores: training
        uses neither labels nor any target of the scores.

        Raises
        ------
        DataError
            If arguments exclude each other.
        """
        from vaekit.analysis import get_data_registry, load_training_data
        from vaekit.analysis.model_source import open_cells
        from vaekit.cli.input_cells import resolve_cells
        from vaekit.data import prepare_query
        from vaekit.data.dataset import sequential_loader

        if self.path is None:
            for name in ("layer", "batch_key", "label_key", "genes_in"):
                if getattr(self, name) is not None:
                    raise DataError(
                        f"data.{name}={getattr(self, name)!r} requires data.path. Pass --data.path FILE.h5ad"
                    )
            data = load_training_data(model)
            loaders = [data.dataloader(part, self.batch_size) for part in (split or "test", split or "all")]
            names = [
                f"{data.source}, {split or 'test'} split",
                f"{data.source}, {f'{split} split' if split else 'all cells'}",
            ]
            return EvaluatedData(loaders[0], names[0], loaders[1], names[1])
        if split is not None:
            raise DataError(
                f"split={split!r} selects training data, but data.path={hide_credentials(self.path)!r} is set. "
                "Omit one of them."
            )
        files = resolve_cells(model, "", [self.path], self.layer, argument="data.path", genes_in=self.genes_in)
        cells, registry = open_cells(model, files.cells, self.layer), get_data_registry(model)
        label_key = self.label_key or registry["config"]["init_args"].get("label_key")
        if self.label_key is None and label_key not in cells.obs:
            label_key = None
        query = prepare_query(cells, registry, self.batch_key, label_key)
        loader = sequential_loader(query.dataset, self.batch_size)
        name = f"{cells.name}, all cells"
        return EvaluatedData(loader, name, loader, name)


TRAINING_DATA = EvaluationData()


def evaluation_table(evaluation: Evaluation, source: str) -> str:
    """Return the results as aligned lines."""
    likelihood, use, agreement = evaluation
    num_observations = len(likelihood.elbo)
    error = f", standard error {likelihood.standard_error():.3f} over observations" if num_observations > 1 else ""
    rows = [
        ("data", f"{source}: {num_observations} observations"),
        ("ELBO", f"{likelihood.elbo.mean().item():.3f} nats"),
        ("log-likelihood", f"{likelihood.mean():.3f} nats{error}"),
        ("importance samples", f"{likelihood.num_samples}, effective {likelihood.ess.mean().item():.1f}; "
                               f"Monte Carlo error of the mean {likelihood.monte_carlo_error():.3f}"),
    ]  # fmt: skip
    if use.units:
        rows.append(("active units", f"{use.active_units} of {use.units}"))
    for name, usage in use.code_usage.items():
        perplexity = math.exp(-(usage * usage.clamp_min(1e-12).log()).sum(-1).mean().item())
        num_used = use.used_codes(name)
        reason = "" if num_used else ", as their probabilities depend little on the data"
        rows.append((f"code {name}", f"{num_used} of {usage.numel()} states in use{reason}; perplexity of the mean "
                                     f"probabilities {perplexity:.1f}"))  # fmt: skip
    if agreement is not None:
        scores = f"ARI {agreement.ari:.3f}, NMI {agreement.nmi:.3f}, accuracy {agreement.accuracy:.3f}"
        rows.append((f"{agreement.clusters} and labels", scores))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def score_integration(model: VAE, data: EvaluatedData) -> tuple[pd.DataFrame | None, str]:
    """Return the integration scores of labeled cells and a line that names the cells.

    Without scores, the line states the reason. It is empty if the data do not have labels.
    """
    from vaekit.analysis.integration import read_labeled_cells, score_cells
    from vaekit.analysis.scib import check_packages

    if "feature_names" not in (model.data_registry or {}) or next(iter(data.scored_batches)).label is None:
        return None, ""
    try:
        check_packages()
        cells = read_labeled_cells(model, data.scored_batches, progress=True)
        scores = score_cells(cells, {}, data.scored_source, progress=True)
    except (DataError, MissingPackageError) as error:
        return None, f"integration: not scored. {error}"
    return scores, f"integration: {data.scored_source}, {len(cells.labels)} cells with a label; higher is better"


def integration_table(scores: pd.DataFrame) -> str:
    """Return integration scores as text: one column per embedding, one line per score."""
    return scores.T.to_string(float_format="{:.3f}".format, na_rep="-")


def integration_values(scores: pd.DataFrame | None) -> dict[str, Any] | None:
    """Return integration scores by embedding and score as plain numbers for JSON; None if undefined."""
    if scores is None:
        return None
    return {
        name: {score: value if math.isfinite(value) else None for score, value in row.items()}
        for name, row in scores.to_dict("index").items()
    }
