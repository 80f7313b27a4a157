"""Tests of observed latents: the loss with labels, its exact gradients, names, and rejected arguments."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import kl_divergence

import vaekit
from vaekit import Batch, MixedVAE
from vaekit.estimators import (
    REBAR,
    RELAX,
    Enumerate,
    Estimator,
    GumbelRao,
    GumbelSoftmax,
    LeaveOneOut,
    LocalExpectation,
    MeasureValued,
    MuProp,
    RaoBlackwell,
    ReinMax,
    ScoreFunction,
    StraightThrough,
    UnorderedSet,
)
from vaekit.exceptions import ConfigError
from vaekit.latents import Categorical, Gaussian
from vaekit.likelihoods import Poisson
from vaekit.models.objectives import ELBO, IWAE
from vaekit.models.regularizers import InformationMaximization

LABELS = {"kind": ["a", "b", "c"]}


def make_model(estimator: Estimator | str = "auto", extra: int = 0, **arguments: object) -> MixedVAE:
    """Return a small model whose category is observed, with distinct probabilities and components."""
    torch.manual_seed(0)
    latents = {
        "y": Categorical(learned_prior=True, estimator=estimator, observed_key="kind", extra=extra),
        "z": Gaussian(2, parents=["y"]),
    }
    model = MixedVAE(6, Poisson(), latents=latents, labels=LABELS, hidden=[8], dropout=0.0, **arguments)
    torch.nn.init.normal_(model.latents["y"].prior_logits)
    return model


def make_batch(label: list[int] | None) -> Batch:
    torch.manual_seed(1)
    count = 5 if label is None else len(label)
    return Batch(
        torch.poisson(torch.full((count, 6), 3.0)),
        size_factor=torch.full((count, 1), 18.0),
        observed_label=None if label is None else torch.tensor(label),
    )


def recipe(model: MixedVAE, batch: Batch, weight: float, alpha: float = 1.0) -> Tensor:
    """Return the loss of each observation by its formula, with an explicit sum over the categories."""
    networks = model.networks
    h = networks.encode(batch)
    q_y, q_z = (networks.posterior(name, h, {}) for name in ("y", "z"))
    z = q_z.rsample()[None]
    log_q = q_y.base_dist.logits[:, 0].log_softmax(-1)
    one_hot = torch.eye(model.latents["y"].size)
    kl = torch.stack([kl_divergence(q_z, networks.prior("z", {"y": y.expand(len(h), 1, -1)}, h)) for y in one_hot], -1)
    label = batch.observed_label
    known = F.one_hot(label.clamp_min(0), model.latents["y"].size).float()
    r = torch.where((label >= 0)[:, None], known, log_q.detach().exp())
    log_p = model.latents["y"].prior_logits.log_softmax(-1)
    divergence = (r * (kl - log_p)).sum(-1) + torch.special.xlogy(r, r).sum(-1)
    cross_entropy = -(known * log_q).sum(-1) * (label >= 0)
    return -networks.log_likelihood({"y": one_hot, "z": z}, batch)[0] + weight * divergence + alpha * cross_entropy


def gradients(loss: Tensor, model: MixedVAE) -> list[Tensor]:
    parameters = list(model.networks.parameters())
    return [g.clone() for g in torch.autograd.grad(loss.mean(), parameters, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("label", [[0, 2, 1, 1, 0], [-1, -1, -1, -1, -1], [-1, 2, -1, 0, 1]])
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_the_loss_is_that_of_the_recipe(label: list[int], weight: float) -> None:
    model, batch = make_model(Enumerate()), make_batch(label)
    torch.manual_seed(3)
    loss = model.loss(batch, weight, training=True).total
    torch.manual_seed(3)
    expected = recipe(model, batch, weight)
    torch.testing.assert_close(loss, expected)
    for actual, exact in zip(gradients(loss, model), gradients(expected, model), strict=True):
        torch.testing.assert_close(actual, exact, atol=1e-5, rtol=1e-4)


def test_only_labels_train_the_posterior_of_the_category() -> None:
    model = make_model()
    head = model.latents["y"].head.weight
    unlabeled, labeled = (model.loss(make_batch([label] * 5), training=True).total.sum() for label in (-1, 0))
    assert (torch.autograd.grad(unlabeled, head)[0] == 0).all()
    assert torch.autograd.grad(labeled, head)[0].abs().max() > 0


def test_unnamed_categories_learn_without_labels() -> None:
    model = make_model(extra=2)
    assert model.label_names == ("a", "b", "c", "unnamed 1", "unnamed 2")
    batch = make_batch([-1])
    gradient = torch.autograd.grad(model.loss(batch, training=True).total.sum(), model.latents["y"].head.bias)[0]
    assert (gradient[3:] != 0).all()
    named = model.posteriors(batch)["y"].mean[0, 0, :3].detach()
    torch.testing.assert_close(gradient[:3] / gradient[:3].sum(), named / named.sum())  # their odds do not change


def test_a_batch_without_labels_is_unlabeled() -> None:
    model = make_model()
    losses = []
    for label in (None, [-1] * 5):
        torch.manual_seed(3)
        losses.append(model.loss(make_batch(label), training=True).total)
    torch.testing.assert_close(*losses)


def test_the_held_out_bound_does_not_use_labels() -> None:
    model = make_model()
    bounds = []
    for label in (None, [0, 2, 1, 1, 0]):
        torch.manual_seed(3)
        bounds.append(model.loss(make_batch(label)).total)
    assert torch.equal(*bounds)
    torch.manual_seed(3)
    latents = {"y": Categorical(3, learned_prior=True), "z": Gaussian(2, parents=["y"])}
    plain = MixedVAE(6, Poisson(), latents=latents, hidden=[8], dropout=0.0)
    plain.load_state_dict(model.state_dict())  # the keys are those of a model without labels
    torch.manual_seed(3)
    assert torch.equal(plain.loss(make_batch(None)).total, bounds[0])


def test_label_weight_multiplies_the_label_loss() -> None:
    latents = {"y": Categorical(observed_key="kind", label_weight=7.0), "z": Gaussian(2, parents=["y"])}
    model = MixedVAE(6, Poisson(), latents=latents, labels=LABELS, hidden=[8], dropout=0.0)
    batch = make_batch([0, -1, 2])
    loss = model.networks.label_loss(model.networks.encode(batch), batch.observed_label)
    log_q = model.posteriors(batch)["y"].mean[:, 0].log()
    torch.testing.assert_close(loss, torch.stack([-7 * log_q[0, 0], torch.tensor(0.0), -7 * log_q[2, 2]]))


def test_label_loss_and_penalty_are_terms_of_training_and_not_of_the_elbo() -> None:
    latents = {"y": Categorical(observed_key="kind"), "z": Gaussian(2, parents=["y"])}
    regularizer = InformationMaximization("y")
    model = MixedVAE(6, Poisson(), latents=latents, labels=LABELS, hidden=[8], dropout=0.0, regularizer=regularizer)
    batch = make_batch([0, -1, 2])
    result = model.loss(batch, training=True)
    loss = model.networks.label_loss(model.networks.encode(batch), batch.observed_label)
    torch.testing.assert_close(result.terms["label_loss"], loss)
    torch.testing.assert_close(result.total, sum(result.terms.values()))
    model.metrics.update(result.terms, {})
    means = model.metrics.compute()
    bound = means["reconstruction"] + means["kl_y"] + means["kl_z"]
    assert means["elbo"] == pytest.approx(-bound)
    assert means["label_loss"] == pytest.approx(loss.mean().item())
    assert {"label_loss", "penalty"}.isdisjoint(model.loss(batch).terms)


ESTIMATORS = [
    Enumerate(),
    ScoreFunction(num_samples=4, baseline=LeaveOneOut()),
    GumbelSoftmax(hard=True),
    GumbelSoftmax(hard=False),
    StraightThrough(),
    ReinMax(),
    GumbelRao(),
    REBAR(),
    RELAX(vaekit.networks.MLP([4])),
    MuProp(),
    LocalExpectation(),
    RaoBlackwell(num_exact=2),
    UnorderedSet(num_samples=3),
    MeasureValued(),
]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: type(estimator).__name__)
def test_every_estimator_draws_the_label_with_certainty(estimator: Estimator) -> None:
    model, batch = make_model(estimator), make_batch([0, 2, 1, 1, 0])
    for seed in range(20):
        torch.manual_seed(seed)
        result = model.loss(batch, training=True)
        sample = result.samples["y"]
        mean = (sample.weight[..., None, None] * sample.value).sum(0)  # also of relaxed samples
        torch.testing.assert_close(mean.reshape(5, 3), F.one_hot(batch.observed_label, 3).float())
        torch.manual_seed(seed)
        # the fold and the explicit sum agree to rounding, because nothing is random except for z
        assert all(gradient.isfinite().all() for gradient in gradients(result.total, model))


@pytest.mark.parametrize(
    "estimator", [ScoreFunction(num_samples=2, baseline=LeaveOneOut()), REBAR(), LocalExpectation()]
)
@pytest.mark.parametrize("decoder_sees_y", [False, True])
def test_gradients_of_unnamed_categories_are_unbiased(estimator: Estimator, decoder_sees_y: bool) -> None:
    """A sampled category has the gradient of the exact sum, in a mini-batch of labeled and unlabeled observations."""
    means, errors = [], []
    for each in (Enumerate(), estimator):
        torch.manual_seed(0)
        latents = {
            "y": Categorical(learned_prior=True, estimator=each, observed_key="kind", extra=2),
            "z": Gaussian(2, parents=["y"], conditional_posterior=decoder_sees_y),
        }
        model = MixedVAE(6, Poisson(), latents=latents, labels=LABELS, hidden=[8], dropout=0.0)
        head = model.latents["y"].head.bias
        batch = make_batch([-1, 2, -1])
        batch = batch.rows(torch.arange(3).repeat(300))
        torch.manual_seed(5)
        values = torch.stack(
            [torch.autograd.grad(model.loss(batch, training=True).total.mean(), head)[0] for _ in range(60)]
        )
        means.append(values.mean(0))
        errors.append(values.var(0) / len(values))
    assert means[0].abs().max() > 0.05
    z = (means[0] - means[1]) / (errors[0] + errors[1] + 1e-12).sqrt()
    assert z.abs().max() < 4.5


@pytest.mark.parametrize("objective", [ELBO(num_samples=4), IWAE(num_samples=4)])
def test_joint_samples(objective: ELBO | IWAE) -> None:
    model, batch = make_model(objective=objective), make_batch([0, 2, -1, 1, 0])
    result = model.loss(batch, training=True)
    known = batch.observed_label >= 0
    expected = F.one_hot(batch.observed_label[known], 3).float().expand(4, -1, -1)
    assert torch.equal(result.samples["y"].value[:, known, 0], expected)
    result.total.mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def make_m2(estimator: Estimator | str = "auto", **decoded: bool) -> MixedVAE:
    """Return a model whose decoder depends on the category: through z, or also directly."""
    torch.manual_seed(0)
    latents = {
        "y": Categorical(learned_prior=True, estimator=estimator, observed_key="kind", **decoded),
        "z": Gaussian(2, parents=["y"], conditional_posterior=True),
    }
    return MixedVAE(6, Poisson(), latents=latents, labels=LABELS, hidden=[8], dropout=0.0)


@pytest.mark.parametrize("decoded", [{}, {"decoded": False}], ids=["y and z", "z"])
@pytest.mark.parametrize("label", [[0, 2, 1, 1, 0], [-1, 2, -1, 0, 1], [-1, -1, -1, -1, 2]])
def test_labeled_observations_are_decoded_once(
    decoded: dict[str, bool], label: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = make_m2(Enumerate(), **decoded), make_batch(label)
    num_decoded = []
    model.networks.decoder.register_forward_hook(lambda _, inputs, output: num_decoded.append(output[..., 0].numel()))
    torch.manual_seed(3)
    result = model.loss(batch, 0.7, training=True)
    num_labeled = sum(each >= 0 for each in label)
    assert sum(num_decoded) == num_labeled + 3 * (5 - num_labeled)
    monkeypatch.setattr("vaekit.models.labeled_decoding._num_states", lambda *_: 1)  # decodes each category
    torch.manual_seed(3)
    expected = model.loss(batch, 0.7, training=True)
    assert sum(num_decoded[2 - (num_labeled == 5) :]) == 15
    torch.testing.assert_close(result.total, expected.total)
    torch.testing.assert_close(result.terms, expected.terms)
    for actual, exact in zip(gradients(result.total, model), gradients(expected.total, model), strict=True):
        torch.testing.assert_close(actual, exact, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("estimator", [LocalExpectation(), RaoBlackwell(num_exact=2), UnorderedSet(num_samples=2)])
def test_sampled_categories_that_the_decoder_sees(estimator: Estimator) -> None:
    exact, sampled = make_m2(Enumerate()), make_m2(estimator)
    sampled.load_state_dict(exact.state_dict(), strict=False)
    batch = make_batch([0, 2, 1, 1, 0])
    losses = []
    for model in (exact, sampled):
        torch.nn.init.constant_(model.latents["z"].head.weight, 0)  # z is nearly certain, so that the losses agree
        torch.nn.init.constant_(model.latents["z"].head.bias, -20)
        losses.append(model.loss(batch, 0.0, training=True))
    torch.testing.assert_close(losses[0].total, losses[1].total, rtol=1e-3, atol=1e-3)


def test_labels_survive_a_checkpoint(tmp_path: object) -> None:
    model = make_model(extra=1)
    vaekit.save(model, f"{tmp_path}/model.ckpt")
    loaded = vaekit.load(f"{tmp_path}/model.ckpt")
    assert (loaded.label_latent, loaded.label_names) == ("y", ("a", "b", "c", "unnamed 1"))
    assert loaded.latents["y"].unit_name(1) == "b"


def test_a_model_without_labels_does_not_have_names() -> None:
    model = MixedVAE(6, Poisson())
    assert (model.label_latent, model.label_names) == (None, ())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "categories=None must be a number"),
        ({"categories": 3, "extra": 2}, "extra=2 requires observed_key"),
        ({"categories": 3, "label_weight": 2.0}, r"label_weight=2.0 requires observed_key"),
        ({"observed_key": "kind", "variables": 2}, "variables=2 must be 1"),
        ({"observed_key": "kind", "extra": -1}, "extra=-1 must not be negative"),
        ({"observed_key": "kind", "label_weight": -1.0}, "label_weight=-1.0 must not be negative"),
        ({"observed_key": ""}, "must be the name of a column"),
    ],
)
def test_rejected_arguments_of_a_latent(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Categorical(**arguments)


@pytest.mark.parametrize(
    ("latents", "labels", "message"),
    [
        ({"y": Categorical(observed_key="kind")}, None, "not found in labels. GeneExpressionData"),
        ({"y": Categorical(observed_key="knd")}, LABELS, "Did you mean 'kind'"),
        ({"y": Categorical(4, observed_key="kind")}, LABELS, r"categories=4, but observed_key='kind' has 3"),
        ({"y": Categorical(observed_key="kind")}, {"kind": ["a"]}, "single category 'a'. Label some"),
        ({"y": Categorical(observed_key="kind"), "w": Categorical(observed_key="kind")}, LABELS, "at most one"),
        ({"y": Categorical(3)}, LABELS, "no latent has this observed_key"),
    ],
)
def test_rejected_combinations(latents: dict, labels: dict | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MixedVAE(6, Poisson(), latents=latents, labels=labels)
