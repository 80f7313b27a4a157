"""The learned library size: where it acts, its prior, its bound against quadrature, its recovery."""

from __future__ import annotations

import math

import pytest
import torch
from models.tiny import FEATURES, adata, broaden, counts, repeated, sharpen, trainer
from torch.distributions import Normal

from vaekit import MixedVAE, load
from vaekit.batch import Batch, DataStatistics
from vaekit.data import GeneExpressionData
from vaekit.diagnostics import importance_sampled_log_likelihood
from vaekit.distributions import NegativeBinomial as NegativeBinomialDistribution
from vaekit.estimators import LeaveOneOut, Pathwise, ScoreFunction
from vaekit.exceptions import ConfigError
from vaekit.latents import Categorical, Gaussian, LibrarySize
from vaekit.likelihoods import Bernoulli, NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from vaekit.models.objectives import IWAE

LIMIT = 4.5
LOG_SIZE = torch.tensor([[2.0, 0.4], [3.0, 0.7]])  # of two batches


def model(likelihood=None, **kwargs) -> MixedVAE:
    torch.manual_seed(1)
    latents = kwargs.pop("latents", None) or {"l": LibrarySize(), "y": Categorical(3)}
    made = MixedVAE(
        FEATURES, likelihood or NegativeBinomial("gene", False), 2, latents=latents, hidden=[6], dropout=0.0, **kwargs
    )
    made = broaden(sharpen(made, 1.2))
    made.networks.init_from_data(DataStatistics(torch.ones(FEATURES), log_size_factor=LOG_SIZE, num_batches=2))
    return made


def cells() -> Batch:
    return counts()._replace(covariates=torch.eye(2)[torch.arange(12) % 2])


def exact(model: MixedVAE, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log p(x) and the bound: a sum over y, quadrature over the log size itself (not u)."""
    with torch.no_grad():
        h = model.networks.encode(batch)
        loc, raw = model.latents["l"].head(h).double().chunk(2, -1)
        m, s = (LOG_SIZE.double()[torch.arange(12) % 2, i] for i in (0, 1))
        q_l = Normal(m + s * loc[:, 0], s * (torch.nn.functional.softplus(raw[:, 0] + 0.5413) + 1e-4))
        q_y = model.latents["y"].head(h).double().log_softmax(-1)
        step = 2e-3
        l = torch.arange(-4, 10, step, dtype=torch.float64)[:, None]  # noqa: E741
        joint, prior = [], Normal(m, s).log_prob(l) - math.log(3)
        for code in torch.eye(3):
            decoded = model.networks.decoder(torch.cat([code.expand(12, 3), batch.covariates], -1))
            log_mean = model.networks.likelihood.composition(decoded).log_softmax(-1) + l[..., None]
            p = NegativeBinomialDistribution(
                log_mean=log_mean, log_inverse_dispersion=model.networks.likelihood.log_inverse_dispersion
            )
            joint.append(p.log_prob(batch.x).sum(-1) + prior)
        joint = torch.stack(joint, -1)  # [points, batch, codes]
        q = q_l.log_prob(l)[..., None] + q_y
        return joint.logsumexp((0, 2)) + math.log(step), (q.exp() * (joint - q)).sum((0, 2)) * step


@pytest.mark.parametrize("order", [("l", "y"), ("y", "l")])
def test_bound_and_likelihood_are_those_of_quadrature(order):
    """12 rows a case and |z| < 4.5: a false alarm in 0.01 %."""
    parts = {"l": LibrarySize(estimator=Pathwise(num_samples=2)), "y": Categorical(3)}
    made, batch = model(latents={name: parts[name] for name in order}).eval(), cells()
    log_likelihood, elbo = exact(made, batch)
    estimate = importance_sampled_log_likelihood(made, [batch], 4000)
    assert estimate.ess.min() > 50
    error = (1 / estimate.ess - 1 / 4000).clamp_min(0).sqrt()
    assert ((estimate.log_likelihood - log_likelihood).abs() < LIMIT * error + 1e-5).all()
    for row in (0, 1, 11):
        with torch.no_grad():
            draws = -made.loss(repeated(batch, row, 10_000)).total.double()
        assert abs(draws.mean() - elbo[row]) < LIMIT * draws.std() / math.sqrt(len(draws)) + 1e-5
    assert (elbo < log_likelihood).all()


def test_gradient_is_the_same_by_every_unbiased_estimator():
    """Pathwise through the library size, and the score function without a path: |z| < 4.5 for 4 numbers."""
    found = []
    for estimator in (Pathwise(), ScoreFunction(num_samples=8, baseline=LeaveOneOut())):
        made = model(latents={"l": LibrarySize(estimator=estimator), "z": Categorical(2)})
        batch = repeated(cells(), 1, 2000)
        runs = []
        for _ in range(30):
            made.zero_grad()
            made.loss(batch, training=True).total.mean().backward()
            runs.append(made.latents["l"].head.bias.grad.double().clone())
        found.append(torch.stack(runs))
    (one, other), se = (f.mean(0) for f in found), (found[0].var(0) / 30 + found[1].var(0) / 30).sqrt()
    assert (one.abs() > 20 * se).any()  # there is something to see
    assert ((one - other).abs() < LIMIT * se).all()


@pytest.mark.parametrize("kind", [NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial])
def test_it_scales_the_mean_and_nothing_else(kind):
    made, batch = model(kind()), cells()
    assert (made.networks.library, made.networks.decoded, made.networks.seen_by_decoder) == ("l", ("y",), ("l", "y"))
    values = {"l": torch.randn(5, 12, 1), "y": torch.eye(3)[torch.randint(3, (5, 12))][..., None, :]}
    other = {**values, "l": values["l"] + 1}
    decoded = made.networks.decode(values, batch)
    assert decoded.equal(made.networks.decode(other, batch))
    means = [made.networks.observation(v, batch).mean for v in (values, other)]
    scale = LOG_SIZE[torch.arange(12) % 2, 1].exp()[:, None].expand(12, FEATURES)
    torch.testing.assert_close((means[1] / means[0]).float(), scale.expand(5, 12, FEATURES))
    ignored = batch._replace(size_factor=batch.size_factor * 100)
    assert made.networks.observation(values, ignored).mean.equal(means[0])


def test_rows_of_the_library_size_and_of_others_combine():
    made, batch = model(), cells()
    values = {"l": torch.randn(4, 1, 12, 1), "y": torch.eye(3)[:, None, None].expand(3, 12, 1, 3)}
    joint = made.networks.log_likelihood(values, batch)
    assert joint.shape == (4, 3, 12)
    one = made.networks.log_likelihood({"l": values["l"][2, 0], "y": values["y"][1]}, batch)
    torch.testing.assert_close(joint[2, 1], one)


def test_prior_has_the_moments_of_the_training_cells(tmp_path):
    data = GeneExpressionData(adata(), batch_key="batch", continuous_covariate_keys=None, batch_size=16)
    latents = {"z": Gaussian(2), "l": LibrarySize()}
    made = MixedVAE(data.features, NegativeBinomial(), data.covariates, latents=latents, hidden=[6])
    used = trainer(max_epochs=1)
    used.fit(made, datamodule=data)
    train = data.dataset.__getitems__(data.split_indices["train"])
    u = made.latents["l"].prior(None, torch.zeros(())).sample((20_000, 2)).squeeze(-1)
    for number in (0, 1):
        rows = train.covariates[:, number] == 1
        log_size = train.x.sum(1)[rows].log()
        batch = Batch(torch.zeros(1), covariates=torch.eye(2)[number : number + 1])
        drawn = made.latents["l"].size_factor(u[:, :1, None], batch).log()
        assert drawn.mean().item() == pytest.approx(log_size.mean().item(), abs=0.02)
        assert drawn.std().item() == pytest.approx(log_size.std(correction=0).item(), rel=0.05)
    used.save_checkpoint(tmp_path / "a.ckpt")
    assert load(tmp_path / "a.ckpt").latents["l"].log_size.equal(made.latents["l"].log_size)


def test_without_batches_and_with_other_covariates():
    latent = LibrarySize()
    latent.build(4, None, covariates=2)
    latent.init_from_data(DataStatistics(torch.ones(3), log_size_factor=LOG_SIZE[:1]))
    batch = Batch(torch.zeros(5, 3), covariates=torch.randn(5, 2))
    torch.testing.assert_close(latent.size_factor(torch.ones(5, 1), batch).log(), torch.full((5, 1), 2.4))


def test_importance_weighted_training():
    made = model(objective=IWAE(num_samples=3), latents={"l": LibrarySize(), "z": Gaussian(2)})
    made.loss(cells(), training=True).total.mean().backward()
    assert (made.latents["l"].head.weight.grad != 0).any()


def test_extreme_sizes_are_finite():
    made, batch = model(), cells()
    for value in (-1e4, 1e4):
        values = {"l": torch.full((12, 1), value, requires_grad=True), "y": torch.eye(3)[torch.arange(12) % 3][:, None]}
        log_prob = made.networks.log_likelihood(values, batch)
        log_prob.sum().backward()
        assert log_prob.isfinite().all()
        assert values["l"].grad.isfinite().all()


@pytest.mark.parametrize(
    ("latents", "likelihood", "message"),
    [
        ({"l": LibrarySize()}, NegativeBinomial, "one library size and at least one other latent"),
        ({"l": LibrarySize(), "m": LibrarySize(), "z": Gaussian(2)}, NegativeBinomial, "'l', 'm' are library sizes"),
        ({"l": LibrarySize(), "z": Gaussian(2)}, Bernoulli, "'l' is a library size, but Bernoulli does not use"),
    ],
)
def test_refused(latents, likelihood, message):
    with pytest.raises(ConfigError, match=message):
        MixedVAE(FEATURES, likelihood(), latents=latents)
