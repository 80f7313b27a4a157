"""Use of latents, codes, agreement with labels and the record of an evaluation, on constructed summaries."""

from __future__ import annotations

import json
import math
import weakref

import numpy as np
import pytest
import torch
from models.tiny import FEATURES, MODELS, counts

from vaekit import MixedVAE
from vaekit.diagnostics import evaluate_model, label_agreement, latent_usage, most_probable_codes, posterior_summaries
from vaekit.diagnostics.evaluation import Evaluation
from vaekit.diagnostics.importance import LikelihoodEstimate
from vaekit.diagnostics.usage import coordinates
from vaekit.latents import Bernoulli, Categorical, Gaussian, LibrarySize
from vaekit.likelihoods import NegativeBinomial


def model():
    latents = {"y": Categorical(3), "v": Categorical(2, variables=2), "b": Bernoulli(2), "z": Gaussian(3)}
    return MixedVAE(FEATURES, NegativeBinomial(), latents=latents, hidden=[4])


def one_hot(codes: list[int], categories: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(codes), categories).float()


SUMMARIES = {
    "y": one_hot([0, 0, 2, 2], 3),
    "v": torch.tensor([[1, 0, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0]]).float(),
    "b": torch.tensor([[0.9, 0.2], [0.9, 0.2], [0.9, 0.8], [0.9, 0.8]]),
    "z": torch.tensor([[0.0, 5.0, -0.1], [0.0, 5.1, 0.1], [0.0, 5.0, -0.1], [0.0, 5.1, 0.12]]),
}


def test_units_and_codes_in_use():
    use = latent_usage(model(), SUMMARIES)
    assert (use.active_units, use.units) == (1, 3)  # variances 0, 0.0025 and 0.011
    torch.testing.assert_close(use.code_usage["y"], torch.tensor([[0.5, 0, 0.5]]))
    torch.testing.assert_close(use.code_usage["v"], torch.tensor([[0.25, 0.75], [1, 0]]))
    torch.testing.assert_close(use.code_usage["b"], torch.tensor([[0.1, 0.9], [0.5, 0.5]]))
    assert [use.used_codes(name) for name in ("y", "v", "b")] == [2, 2, 2]  # the others are the same for all rows
    assert use.used_codes("y", threshold=0.6) == 0


@pytest.mark.parametrize(
    ("probabilities", "used"),
    [
        ([[0, 1]] * 50, 0),  # always the same bit
        ([[1, 0]] * 50, 0),
        ([[0.3, 0.7]] * 50, 0),  # not known better of one row than of another
        ([[0.5, 0.5]] * 49 + [[0.4, 0.6]], 0),
        ([[0, 1]] * 200 + [[1, 0]], 0),  # one row in 200
        ([[0, 1]] * 49 + [[1, 0]], 2),
        ([[0.4, 0.6], [0.6, 0.4]] * 25, 2),
    ],
)
def test_a_variable_that_does_not_vary_has_no_state_in_use(probabilities, used):
    table = torch.tensor(probabilities, dtype=torch.float32)
    made = MixedVAE(FEATURES, NegativeBinomial(), latents={"y": Categorical(2), "b": Bernoulli(1), "z": Gaussian(1)})
    use = latent_usage(made, {"y": table, "b": table[:, 1:], "z": table[:, :1]})
    assert [use.used_codes("y"), use.used_codes("b")] == [used, used]


def test_a_library_size_is_no_coordinate():
    latents = {"l": LibrarySize(), "z": Gaussian(2), "y": Categorical(3)}
    size, z, y = torch.randn(9, 1), torch.randn(9, 2), torch.rand(9, 3)
    for names, expected in (("lzy", z), ("zl", z), ("yl", y)):
        made = MixedVAE(FEATURES, NegativeBinomial(), latents={name: latents[name] for name in names})
        summaries = {name: {"l": size, "z": z, "y": y}[name] for name in names}
        torch.testing.assert_close(coordinates(made, summaries), expected)


def test_a_library_size_is_no_unit():
    made = MixedVAE(FEATURES, NegativeBinomial(), latents={"l": LibrarySize(), "z": Gaussian(2)})
    spread = torch.linspace(-3, 3, 50)[:, None]
    use = latent_usage(made, {"l": spread, "z": torch.cat([spread, 0 * spread], 1)})
    assert (use.active_units, use.units) == (1, 2)


def test_codes_of():
    latents = model().latents
    assert most_probable_codes(latents["y"], SUMMARIES["y"]).tolist() == ["0", "0", "2", "2"]
    assert most_probable_codes(latents["v"], SUMMARIES["v"]).tolist() == ["0-0", "1-0", "1-0", "1-0"]
    assert most_probable_codes(latents["b"], SUMMARIES["b"]).tolist() == ["1-0", "1-0", "1-1", "1-1"]


def test_agreement_does_not_depend_on_names():
    found = label_agreement(model(), SUMMARIES, np.array([7, 7, 1, 1]))
    assert found == (pytest.approx(1), pytest.approx(1), 1.0, "code y")


def test_agreement_of_crossed_labels_is_none_better_than_chance():
    found = label_agreement(model(), SUMMARIES, np.array([0, 1, 0, 1]))
    assert found.ari <= 0
    assert found.nmi == pytest.approx(0, abs=1e-9)


def test_unknown_labels_are_left_out():
    found = label_agreement(model(), {**SUMMARIES, "y": one_hot([0, 0, 2, 0], 3)}, np.array([5, 5, 3, -1]))
    assert found.ari == pytest.approx(1)


@pytest.mark.parametrize("labels", [[-1, -1, -1, -1], [2, 2, -1, 2]])
def test_fewer_than_two_labels_is_none(labels):
    assert label_agreement(model(), SUMMARIES, np.array(labels)) is None


def test_a_model_without_a_single_code_is_clustered():
    gaussian = MODELS["gaussian"](NegativeBinomial())
    points = torch.tensor([[0.0, 0.0], [0.1, 0.0], [9.0, 9.0], [9.1, 9.0], [4.0, -4.0]])
    found = label_agreement(gaussian, {"z": points}, np.array([1, 1, 0, 0, 2]))
    assert (found.ari, found.clusters) == (pytest.approx(1), "k-means with 3 clusters")


@pytest.mark.parametrize("name", MODELS)
def test_summaries_of_every_latent(name):
    made, batch = MODELS[name](NegativeBinomial()), counts()
    summaries = posterior_summaries(made, [batch, batch])
    assert made.training
    assert {n: tuple(s.shape) for n, s in summaries.items()} == {n: (24, x.size) for n, x in made.latents.items()}
    assert all(s[:12].equal(s[12:]) and not s.requires_grad for s in summaries.values())  # no dropout
    torch.manual_seed(0)
    for latent, q in made.eval().posteriors(batch).items():
        seen = made.latents[latent].flatten(q.sample((20_000,)))  # what the decoder sees, by Monte Carlo
        error = (seen.std(0) / len(seen) ** 0.5).clamp_min(1e-5)
        assert ((seen.mean(0) - summaries[latent][:12]).abs() < 5 * error).all()


@pytest.mark.parametrize("name", ["gaussian", "mixed", "discrete_score", "mixed_bits"])
def test_record(name):
    batch = counts()
    evaluation = evaluate_model(MODELS[name](NegativeBinomial()), iter([batch, batch]), num_samples=20)
    record = json.loads(json.dumps(evaluation.to_dict()))
    assert set(record) >= {"elbo", "log_likelihood", "log_likelihood_se", "ess", "active_units", "ari", "nmi"}
    assert (record["observations"], record["num_samples"]) == (24, 20)
    assert record["elbo"] == pytest.approx(evaluation.likelihood.elbo.mean().item())
    assert record["elbo"] <= record["log_likelihood"]
    assert 1 <= record["ess"] <= 20.0001
    assert -1 <= record["ari"] <= 1
    assert set(record["used_codes"]) == {n for n, latent in evaluation.use.code_usage.items() if latent is not None}


def test_record_of_what_is_undefined():
    batch = counts(1)._replace(label=None)
    record = evaluate_model(MODELS["gaussian"](NegativeBinomial()), [batch], num_samples=3).to_dict()
    assert record["log_likelihood_se"] is record["ari"] is record["nmi"] is None
    assert isinstance(record["elbo"], float)
    infinite = LikelihoodEstimate(torch.tensor([-math.inf, 0.0]), torch.zeros(2), torch.tensor([math.nan, 1.0]), 1)
    assert Evaluation(infinite, latent_usage(model(), SUMMARIES), None).to_dict()["ess"] is None
    json.dumps(record, allow_nan=False)


def test_an_evaluation_keeps_no_batch():
    """Nor what is as large: cells in a file are more than fit into memory."""
    seen: list[weakref.ref] = []

    def batches():
        for number in range(6):
            batch = counts(4, seed=number)
            seen.append(weakref.ref(batch.x))
            yield batch
            del batch
            assert sum(x() is not None for x in seen) <= 1  # the caller's

    whole = evaluate_model(made := MODELS["mixed"](NegativeBinomial()), batches(), num_samples=3)
    assert len(seen) == 6
    assert len(whole.likelihood.elbo) == 24
    together = posterior_summaries(made, [counts(4, seed=number) for number in range(6)])
    torch.testing.assert_close(whole.use.code_usage, latent_usage(made, together).code_usage)
    labels = torch.cat([counts(4, seed=number).label for number in range(6)]).numpy()
    assert whole.agreement == label_agreement(made, together, labels)


@pytest.mark.parametrize(("labels", "wanted"), [([7, 7, 1, 7], 0.75), ([0, 1, 0, 1], 0.5), ([0, 1, 2, 3], 0.5)])
def test_accuracy_matches_clusters_and_labels_one_to_one(labels, wanted):
    assert label_agreement(model(), SUMMARIES, np.array(labels)).accuracy == wanted
