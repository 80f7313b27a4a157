"""What only a GPU can show; skipped where there is none."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from models.tiny import MODELS
from scipy import sparse as scipy_sparse

from gpu.waiting import make_optimizer
from vaekit import DiscreteVAE, GaussianVAE
from vaekit.batch import Batch
from vaekit.data import GeneExpressionData, ImageData
from vaekit.data.cells.count_dataset import CountDataset, CountsOnDevice
from vaekit.data.images.image_dataset import ImageDataset, ImagesOnDevice
from vaekit.estimators import REBAR
from vaekit.likelihoods import Bernoulli, NegativeBinomial, ZeroInflatedNegativeBinomial
from vaekit.likelihoods.counts import sparse
from vaekit.models.cuda_graph import NUM_WARMUP_STEPS, CUDAGraphStep

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none"),
]
GPU = torch.device("cuda", 0)
GENES = 700


@pytest.fixture
def no_waiting():
    """Let CUDA raise an error where the CPU waits for it, once the test calls this."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


def counts(cells: int = 64) -> CountDataset:
    return CountDataset(
        scipy_sparse.csr_matrix(np.random.default_rng(0).poisson(0.5, (cells, GENES)).astype(np.float32))
    )


def images(cells: int = 64) -> ImageDataset:
    return ImageDataset(
        torch.randint(0, 256, (cells, 30), dtype=torch.uint8), 255, torch.zeros(cells).long(), draw=True
    )


def model_of(kind: str):
    """Return a model of counts or of images on the GPU, and its data there."""
    torch.manual_seed(0)
    if kind == "images":
        model = DiscreteVAE(30, Bernoulli(), variables=3, categories=4, hidden=[16], estimator=REBAR())
        return model.to(GPU).train(), images().copy_to(GPU)
    likelihood = NegativeBinomial() if kind == "nb" else ZeroInflatedNegativeBinomial()
    model = GaussianVAE(GENES, likelihood, latent_dim=4, hidden=[16], dropout=0.1)
    return model.to(GPU).train(), counts().copy_to(GPU)


@pytest.mark.parametrize("kind", ["nb", "zinb", "images"])
def test_no_step_waits(no_waiting, kind):
    model, data = model_of(kind)
    optimizer = make_optimizer(model, 1e-3, 1e-4)

    def step():
        batch = data.__getitems__(torch.randperm(64)[:32])
        optimizer.zero_grad()
        model.on_train_batch_start(batch, 0)
        loss = model.training_step(batch, 1)
        loss.backward()
        model.configure_gradient_clipping(optimizer, 10.0, "norm")
        optimizer.step()
        return loss.detach()

    first = step()
    no_waiting()
    for _ in range(3):
        loss = step()
    torch.cuda.set_sync_debug_mode("default")
    assert first.isfinite()
    assert loss.isfinite()


def test_waiting_would_be_found(no_waiting):
    no_waiting()
    with pytest.raises(RuntimeError, match="synchroniz"):
        torch.ones(3, device=GPU).sum().item()


@pytest.mark.parametrize("kind", [CountsOnDevice, ImagesOnDevice])
def test_batches_are_those_of_the_cpu(kind):
    dataset = counts() if kind is CountsOnDevice else ImageDataset(images().pixels, 255, torch.arange(64))
    moved = dataset.copy_to(GPU)
    assert isinstance(moved, kind)
    rows = torch.randperm(64)[:20]
    found, wanted = moved.__getitems__(rows), dataset.__getitems__(rows)
    assert found.x.device == GPU
    assert found.x.cpu().equal(wanted.x)
    assert found.index.cpu().equal(wanted.index)


@pytest.mark.parametrize("own_dispersion", [False, True])
@pytest.mark.parametrize("inflated", [False, True])
@pytest.mark.parametrize("genes", [37, 512, 2000])
def test_kernel_is_the_dense_formula(genes, inflated, own_dispersion):
    torch.manual_seed(0)
    x = torch.poisson(torch.rand(32, genes) * 2)
    x[0, 0], x[1, 1], x[2, :5], x[-1] = 1e6, 3e3, torch.tensor([7.0, 8, 9, 10, 300]), 0
    inputs = [torch.randn(2, 32, genes) * 3, torch.empty(*(2, 32) * own_dispersion, genes).uniform_(-9, 18)]
    inputs += [torch.randn(2, 32, genes) * 6 - 1] * inflated
    inputs = [t.to(GPU).requires_grad_() for t in inputs]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    batch = Batch(x, x.sum(1, keepdim=True).clamp_min(1)).to(GPU)
    value = sparse.log_prob(inputs[0], batch, *inputs[1:])
    gate = exact[2] if inflated else None
    wanted = sparse.dense_log_prob(exact[0], batch.size_factor.double().log(), exact[1], gate, batch.x.double())
    assert value.dtype == torch.float32
    assert ((value - wanted).abs() <= 1e-3 + 1e-6 * batch.x.sum(1) + 2.5e-7 * wanted.abs()).all()
    weight = torch.randn_like(value)
    found = torch.autograd.grad(value, inputs, weight)
    for one, other in zip(found, torch.autograd.grad(wanted, exact, weight.double()), strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


def test_captured_steps_are_the_usual_ones():
    """By exact sums over the latents: no noise, which a recorded step draws in another order."""

    def train(captured):
        torch.manual_seed(0)
        model = MODELS["discrete_enumerate"](NegativeBinomial(), features=GENES).to(GPU)
        optimizer = make_optimizer(model, 1e-2, 1e-4)
        data, step, losses = counts().copy_to(GPU), None, []
        if captured:
            step = CUDAGraphStep(model, optimizer, max_norm=10.0)
        for number in range(4 * NUM_WARMUP_STEPS):
            batch = data.__getitems__(torch.arange(16) + 4 * number % 48)
            kl_weight = min(1.0, number / 8)
            if step is not None:
                losses.append(step(batch, kl_weight)[0])
                continue
            optimizer.zero_grad()
            loss = model.loss(batch, kl_weight, training=True).total.mean()
            loss.backward()
            model._groups.clip(10.0)
            optimizer.step()
            losses.append(loss.detach())
        assert step is None or step._captured is not None
        return torch.stack(losses), torch.cat([p.detach().flatten() for p in model.parameters()])

    for one, other in zip(train(True), train(False), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_captured_steps_draw_new_noise_and_follow_the_learning_rate():
    model, data = model_of("nb")
    optimizer = make_optimizer(model, 1e-3, 0.0)
    step, batch = CUDAGraphStep(model, optimizer), data.__getitems__(torch.arange(32))
    for _ in range(NUM_WARMUP_STEPS + 2):
        step(batch)
    for group in optimizer.param_groups:
        group["lr"].fill_(0.0)
    before = [p.detach().clone() for p in model.parameters()]
    losses = torch.stack([step(batch)[0] for _ in range(4)])
    assert len(losses.unique()) == 4
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["nb", "images"])
def test_fit(tmp_path, kind):
    if kind == "images":
        data = ImageData(batch_size=256)
        model = DiscreteVAE(data.features, Bernoulli(), variables=3, categories=4, hidden=[16])
    else:
        data = GeneExpressionData(anndata.AnnData(counts(600).counts), batch_size=64)
        model = GaussianVAE(data.features, NegativeBinomial(), latent_dim=4, hidden=[16])
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="gpu",
        devices=1,
        gradient_clip_val=10.0,
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=data)
    assert trainer.callback_metrics["val/elbo"].isfinite()
    assert isinstance(trainer.train_dataloader.dataset.dataset, CountsOnDevice | ImagesOnDevice)
    assert all(p.isfinite().all() for p in model.parameters())
