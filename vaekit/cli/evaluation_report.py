"""Data of ``vaekit evaluate``, and its result as text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vaekit.exceptions import DataError

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from vaekit.diagnostics.evaluation import Evaluation
    from vaekit.models import VAE


@dataclass(frozen=True)
class EvaluationData:
    """Cells of a file, evaluated instead of the training data.

    Parameters
    ----------
    path : str, optional
        File or zarr store whose cells are all evaluated. None: a split of the training data.
    layer : str, optional
        Layer with the counts ('raw' for .raw, 'X' for .X). None: as in training.
    batch_key : str, optional
        Column of obs with the batch. None: as in training.
    label_key : str, optional
        Column of obs with labels. None: as in training, if the file has it.
    batch_size : int
        Observations per mini-batch, also for the training data.
    """

    path: str | None = None
    layer: str | None = None
    batch_key: str | None = None
    label_key: str | None = None
    batch_size: int = 128

    def load(self, model: VAE, split: str | None) -> tuple[DataLoader, str]:
        """Return the mini-batches to evaluate, and the name of the data.

        Raises
        ------
        DataError
            If arguments exclude each other.
        """
        from torch.utils.data import DataLoader

        from vaekit.analysis import get_data_registry, load_training_data
        from vaekit.analysis.model_source import open_cells
        from vaekit.data import prepare_query
        from vaekit.data.dataset import identity_collate

        if self.path is None:
            for name in ("layer", "batch_key", "label_key"):
                if getattr(self, name) is not None:
                    raise DataError(
                        f"data.{name}={getattr(self, name)!r} requires data.path. Pass --data.path FILE.h5ad"
                    )
            data = load_training_data(model)
            split = split or "test"
            return data.dataloader(split, self.batch_size), f"{data.source}, {split} split"
        if split is not None:
            raise DataError(
                f"split={split!r} selects training data, but data.path={self.path!r} is set. Omit one of them."
            )
        cells, registry = open_cells(model, self.path, self.layer), get_data_registry(model)
        label_key = self.label_key or registry["config"]["init_args"].get("label_key")
        if self.label_key is None and label_key not in cells.obs:
            label_key = None
        query = prepare_query(cells, registry, self.batch_key, label_key)
        loader = DataLoader(query.dataset, batch_size=self.batch_size, collate_fn=identity_collate)
        return loader, f"{cells.name}, all cells"


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
