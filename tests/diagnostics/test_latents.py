"""Usage of latents, codes, agreement with labels and evaluations, on constructed summaries."""

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
from vaekit.diagnostics.usage import coordinate_activities, coordinates
from vaekit.latents import Bernoulli, Categorical, Dirichlet, Gaussian, LibrarySize
from vaekit.latents.activity import ACTIVE_VARIANCE
from vaekit.likelihoods import NegativeBinomial
from vaekit.plotting.model_figures import active_units


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


def test_active_dimensions_and_codes():
    use = latent_usage(model(), SUMMARIES)
    assert (use.active_units, use.units) == (1, 3)  # variances 0, 0.0025 and 0.011
    torch.testing.assert_close(use.code_usage["y"], torch.tensor([[0.5, 0, 0.5]]))
    torch.testing.assert_close(use.code_usage["v"], torch.tensor([[0.25, 0.75], [1, 0]]))
    torch.testing.assert_close(use.code_usage["b"], torch.tensor([[0.1, 0.9], [0.5, 0.5]]))
    assert [use.used_codes(name) for name in ("y", "v", "b")] == [2, 2, 2]  # the others are constant
    assert use.used_codes("y", threshold=0.6) == 0


@pytest.mark.parametrize(
    ("probabilities", "used"),
    [
        ([[0, 1]] * 50, 0),  # constant
        ([[1, 0]] * 50, 0),
        ([[0.3, 0.7]] * 50, 0),  # the same for all observations
        ([[0.5, 0.5]] * 49 + [[0.4, 0.6]], 0),
        ([[0, 1]] * 200 + [[1, 0]], 0),  # one observation in 200
        ([[0, 1]] * 49 + [[1, 0]], 2),
        ([[0.4, 0.6], [0.6, 0.4]] * 25, 2),
    ],
)
def test_a_constant_variable_has_no_active_state(probabilities, used):
    table = torch.tensor(probabilities, dtype=torch.float32)
    vae = MixedVAE(FEATURES, NegativeBinomial(), latents={"y": Categorical(2), "b": Bernoulli(1), "z": Gaussian(1)})
    use = latent_usage(vae, {"y": table, "b": table[:, 1:], "z": table[:, :1]})
    assert [use.used_codes("y"), use.used_codes("b")] == [used, used]


def test_coordinates_ignore_a_library_size():
    latents = {"l": LibrarySize(), "z": Gaussian(2), "y": Categorical(3)}
    size, z, y = torch.randn(9, 1), torch.randn(9, 2), torch.rand(9, 3)
    for names, expected in (("lzy", z), ("zl", z), ("yl", y)):
        vae = MixedVAE(FEATURES, NegativeBinomial(), latents={name: latents[name] for name in names})
        summaries = {name: {"l": size, "z": z, "y": y}[name] for name in names}
        torch.testing.assert_close(coordinates(vae, summaries), expected)


def test_active_dimensions_ignore_a_library_size():
    vae = MixedVAE(FEATURES, NegativeBinomial(), latents={"l": LibrarySize(), "z": Gaussian(2)})
    spread = torch.linspace(-3, 3, 50)[:, None]
    use = latent_usage(vae, {"l": spread, "z": torch.cat([spread, 0 * spread], 1)})
    assert (use.active_units, use.units) == (1, 2)


def test_the_figure_counts_active_dimensions_and_topics_like_the_table():
    vae = MixedVAE(FEATURES, NegativeBinomial(), latents={"t": Dirichlet(4), "z": Gaussian(2), "l": LibrarySize()})
    rows = torch.arange(200)
    rare = 0.19 * (rows % 2)[:, None]  # two topics with a variance below the threshold of dimensions
    topics = torch.cat([0.4 + 0 * rare, 0.3 - rare, 0.3 + 0 * rare, rare], 1)
    summaries = {"t": topics, "z": torch.randn(200, 2) * torch.tensor([1.0, 0.01]), "l": torch.randn(200, 1)}
    use, activities = latent_usage(vae, summaries), coordinate_activities(vae, summaries)
    assert [(name, unit) for name, (_, unit) in activities.items()] == [("t", "topic"), ("z", "dimension")]
    titles = [axis.get_title() for axis in active_units(activities, ACTIVE_VARIANCE).axes]
    shown = [int(title.split()[1]) for title in titles]
    assert titles[1] == "z: 1 of 2 dimensions active"
    assert titles[0].endswith("of 4 topics active")
    assert sum(shown) == use.active_units
    assert shown[0] > int((topics.var(0) > ACTIVE_VARIANCE).sum())


def test_most_probable_codes():
    latents = model().latents
    assert most_probable_codes(latents["y"], SUMMARIES["y"]).tolist() == ["0", "0", "2", "2"]
    assert most_probable_codes(latents["v"], SUMMARIES["v"]).tolist() == ["0-0", "1-0", "1-0", "1-0"]
    assert most_probable_codes(latents["b"], SUMMARIES["b"]).tolist() == ["1-0", "1-0", "1-1", "1-1"]


def test_agreement_does_not_depend_on_names():
    agreement = label_agreement(model(), SUMMARIES, np.array([7, 7, 1, 1]))
    assert agreement == (pytest.approx(1), pytest.approx(1), 1.0, "code y")


def test_agreement_of_independent_labels_is_at_chance():
    agreement = label_agreement(model(), SUMMARIES, np.array([0, 1, 0, 1]))
    assert agreement.ari <= 0
    assert agreement.nmi == pytest.approx(0, abs=1e-9)


def test_unknown_labels_are_ignored():
    agreement = label_agreement(model(), {**SUMMARIES, "y": one_hot([0, 0, 2, 0], 3)}, np.array([5, 5, 3, -1]))
    assert agreement.ari == pytest.approx(1)


@pytest.mark.parametrize("labels", [[-1, -1, -1, -1], [2, 2, -1, 2]])
def test_fewer_than_two_labels_is_none(labels):
    assert label_agreement(model(), SUMMARIES, np.array(labels)) is None


def test_a_model_without_a_single_code_is_clustered():
    gaussian = MODELS["gaussian"](NegativeBinomial())
    points = torch.tensor([[0.0, 0.0], [0.1, 0.0], [9.0, 9.0], [9.1, 9.0], [4.0, -4.0]])
    agreement = label_agreement(gaussian, {"z": points}, np.array([1, 1, 0, 0, 2]))
    assert (agreement.ari, agreement.clusters) == (pytest.approx(1), "k-means with 3 clusters")


@pytest.mark.parametrize("name", MODELS)
def test_summaries_of_every_latent(name):
    vae, batch = MODELS[name](NegativeBinomial()), counts()
    summaries = posterior_summaries(vae, [batch, batch])
    assert vae.training
    assert {n: tuple(s.shape) for n, s in summaries.items()} == {n: (24, x.size) for n, x in vae.latents.items()}
    assert all(s[:12].equal(s[12:]) and not s.requires_grad for s in summaries.values())  # no dropout
    torch.manual_seed(0)
    for latent, q in vae.eval().posteriors(batch).items():
        samples = vae.latents[latent].flatten(q.sample((20_000,)))  # inputs of the decoder
        error = (samples.std(0) / len(samples) ** 0.5).clamp_min(1e-5)
        assert ((samples.mean(0) - summaries[latent][:12]).abs() < 5 * error).all()


@pytest.mark.parametrize("name", ["gaussian", "mixed", "discrete_score", "mixed_bits"])
def test_evaluation_as_a_dictionary(name):
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


def test_undefined_values_are_none():
    batch = counts(1)._replace(label=None)
    record = evaluate_model(MODELS["gaussian"](NegativeBinomial()), [batch], num_samples=3).to_dict()
    assert record["log_likelihood_se"] is record["ari"] is record["nmi"] is None
    assert isinstance(record["elbo"], float)
    infinite = LikelihoodEstimate(torch.tensor([-math.inf, 0.0]), torch.zeros(2), torch.tensor([math.nan, 1.0]), 1)
    assert Evaluation(infinite, latent_usage(model(), SUMMARIES), None).to_dict()["ess"] is None
    json.dumps(record, allow_nan=False)


def test_an_evaluation_does_not_store_batches():
    """The cells of a file may not fit into memory."""
    references: list[weakref.ref] = []

    def batches():
        for number in range(6):
            batch = counts(4, seed=number)
            references.append(weakref.ref(batch.x))
            yield batch
            del batch
            assert sum(x() is not None for x in references) <= 1  # the reference of the caller

    whole = evaluate_model(vae := MODELS["mixed"](NegativeBinomial()), batches(), num_samples=3)
    assert len(references) == 6
    assert len(whole.likelihood.elbo) == 24
    together = posterior_summaries(vae, [counts(4, seed=number) for number in range(6)])
    torch.testing.assert_close(whole.use.code_usage, latent_usage(vae, together).code_usage)
    labels = torch.cat([counts(4, seed=number).label for number in range(6)]).numpy()
    assert whole.agreement == label_agreement(vae, together, labels)


@pytest.mark.parametrize(("labels", "expected"), [([7, 7, 1, 7], 0.75), ([0, 1, 0, 1], 0.5), ([0, 1, 2, 3], 0.5)])
def test_accuracy_matches_clusters_and_labels_one_to_one(labels, expected):
    assert label_agreement(model(), SUMMARIES, np.array(labels)).accuracy == expected
