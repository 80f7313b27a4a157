import pytest
import torch
from anndata import AnnData
from models.tiny import trainer

from vaekit import GaussianVAE
from vaekit.data import GeneExpressionData, simulate_counts
from vaekit.likelihoods import NegativeBinomial
from vaekit.models import VAE


@pytest.fixture(scope="package")
def simulated() -> tuple[AnnData, VAE]:
    """Return cells of three clusters in two partly confounded batches, and a model that was trained on them."""
    adata = simulate_counts(1200, 150, clusters=3, batches=2, confounding=0.5, seed=7)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = GeneExpressionData(adata, batch_key="batch")
        model = GaussianVAE(data.features, NegativeBinomial(), data.covariates, latent_dim=4, hidden=(32,))
        trainer(max_epochs=8, limit_val_batches=0).fit(model, datamodule=data)
    return adata, model.eval()
