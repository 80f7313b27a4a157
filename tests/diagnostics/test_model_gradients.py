"""Gradient report of a model: gradients of its training loss, joint samples and sequences."""

from __future__ import annotations

import pytest
import torch
from models.tiny import MODELS, counts, sharpen

from vaekit.diagnostics import (
    model_gradient_report,
)
from vaekit.diagnostics.gradients.model_report import ModelTarget
from vaekit.estimators import (
    Enumerate,
    LeaveOneOut,
    ScoreFunction,
)
from vaekit.likelihoods import NegativeBinomial
from vaekit.models.objectives import ELBO, IWAE

LOO = "ScoreFunction(LeaveOneOut)"


@pytest.mark.parametrize("objective", [ELBO(beta=0.7), ELBO(free_bits=0.3)], ids=["beta", "free bits"])
@pytest.mark.parametrize("name", ["discrete_enumerate", "mixed", "mixed_child_first", "sequential_auto"])
def test_gradient_of_a_model_equals_that_of_its_training_loss(name, objective):
    torch.manual_seed(0)
    model = sharpen(MODELS[name](NegativeBinomial(), objective=objective)).eval()
    batch, weight = counts(), 0.6
    name = next(reversed(model.latents)) if "sequential" in name else next(iter(model.latents))
    target = ModelTarget(model, batch, name, weight)
    estimators = target.model.estimators
    # the posteriors of other latents share the encoder: only the head belongs to this latent
    sizes = {n: p.numel() for n, p in model.latents[name].named_parameters() if n.startswith(("joining", "head"))}
    offset = sum(size for n, size in sizes.items() if n.startswith("joining"))
    torch.manual_seed(1)
    actual = target.gradients(estimators, 1)[0, offset : sum(sizes.values())]
    torch.manual_seed(1)
    loss = model.loss(batch, weight, training=True).total.mean()
    expected = torch.autograd.grad(loss, list(model.latents[name].head.parameters()))
    torch.testing.assert_close(actual, torch.cat([g.flatten() for g in expected]), rtol=1e-4, atol=1e-6)
    many = target.gradients(estimators, 3)
    assert many.shape == (3, target.gradients(estimators, 1).shape[1])


def test_report_of_a_model():
    torch.manual_seed(0)
    model = sharpen(MODELS["mixed_bits"](NegativeBinomial()))
    before = {n: p.clone() for n, p in model.state_dict().items()}
    report, omitted = model_gradient_report(model, counts(), "b", 300, timings=1, progress=False)
    assert {"ARM", "Enumerate", "REBAR"} <= set(report.estimator)
    assert not report.error.any()
    assert (report.z[report.unbiased] < 4).all()
    assert "ScoreFunction(LearnedBaseline)" in omitted
    report, _ = model_gradient_report(model, counts(), "z", 300, timings=1, progress=False)
    assert {"Pathwise", "MeasureValued", "ScoreFunction"} <= set(report.estimator)
    assert "estimates of" in report.attrs["reference"]
    assert (report.z[report.unbiased] < 4).all()
    variance = report.set_index("estimator").variance
    assert variance["Pathwise"] < variance["ScoreFunction"]  # by variance x time it may be MeasureValued
    assert model.training
    assert all(p.equal(model.state_dict()[n]) for n, p in before.items())


def test_report_of_a_model_with_joint_samples():
    torch.manual_seed(0)
    model = MODELS["discrete_leave_one_out"](NegativeBinomial(), objective=IWAE(4))
    report, omitted = model_gradient_report(sharpen(model), counts(), "y", 200, timings=1, progress=False)
    assert "ScoreFunction(LearnedBaseline)" in omitted
    errors = report.set_index("estimator").error
    assert set(errors.index[errors == ""]) == {"ScoreFunction", LOO}
    assert "importance-weighted bound" in errors["GumbelSoftmax"]
    report = report[report.error == ""]
    assert set(report.evaluations) == {4}
    assert (report.z.abs() < 4).all()


@pytest.mark.exhaustive
def test_report_of_a_sequence():
    """The latent is in the middle of the sequence: its posterior depends on earlier samples."""
    torch.manual_seed(0)
    model = sharpen(MODELS["sequential_auto"](NegativeBinomial(), objective=ELBO(num_samples=4)))
    assert type(model.estimators["z2"]).__name__ == "ScoreFunction"
    estimators = {"plain": ScoreFunction(), "compared": ScoreFunction(baseline=LeaveOneOut()), "listed": Enumerate()}
    report, omitted = model_gradient_report(
        model, counts(), "z2", 200, estimators=estimators, reference_draws=800, timings=1, progress=False
    )
    report = report.set_index("estimator")
    assert not omitted
    assert list(report.index[report.error == ""]) == ["plain", "compared"]
    assert "does not support joint samples" in report.error["listed"]
    assert (report.z.dropna() < 4).all()
    assert report.variance["compared"] < report.variance["plain"]
    assert set(report.evaluations.dropna()) == {4}
