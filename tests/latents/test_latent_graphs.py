"""Graphs of latents: arguments that raise an error, the order of declaration, names, and what the decoder sees."""

from __future__ import annotations

import pytest
import torch
from models.tiny import FEATURES, MODELS, counts, sharpen

from vaekit import DiscreteVAE, GaussianVAE, MixedVAE
from vaekit.estimators import Enumerate, LeaveOneOut, Pathwise, ScoreFunction
from vaekit.exceptions import ConfigError, EstimatorError
from vaekit.latents import (
    Bernoulli,
    Categorical,
    Dirichlet,
    Gamma,
    Gaussian,
    LibrarySize,
    Poisson,
    Product,
    StudentT,
)
from vaekit.likelihoods import NegativeBinomial


def mixed(**latents) -> MixedVAE:
    return MixedVAE(FEATURES, NegativeBinomial(), latents=latents, hidden=[4])


REFUSED = {
    "unknown parent": (
        lambda: mixed(y=Categorical(3), z=Gaussian(2, parents=["x"])),
        ConfigError,
        "'z': parent 'x' not found.*'y'",
    ),
    "near parent": (lambda: mixed(code=Categorical(3), z=Gaussian(2, parents=["cod"])), ConfigError, "mean 'code'"),
    "nothing depends on it": (
        lambda: mixed(y=Categorical(3, decoded=False), z=Gaussian(2)),
        ConfigError,
        r"'y': decoded=False.*Set parents=\['y'\]",
    ),
    "only the library size depends on it": (
        lambda: mixed(z=Gaussian(2, decoded=False), l=LibrarySize(parents=["z"])),
        ConfigError,
        "'z': decoded=False",
    ),
    "a posterior given nothing": (
        lambda: Gaussian(2, conditional_posterior=True),
        ConfigError,
        "Gaussian: conditional_posterior=True needs parents",
    ),
    "itself": (lambda: mixed(y=Categorical(2, parents=["y"])), ConfigError, "latents 'y' form a cycle"),
    "circle": (
        lambda: mixed(a=Categorical(2), y=Categorical(2, parents=["w"]), w=Categorical(2, parents=["a", "y"])),
        ConfigError,
        "latents 'y', 'w' form a cycle",
    ),
    "continuous circle": (
        lambda: mixed(z=Gaussian(2, parents=["w"]), y=Categorical(2), w=Gaussian(1, parents=["z"])),
        ConfigError,
        "latents 'z', 'w' form a cycle.*Remove one of their parents",
    ),
    "circle of posteriors": (
        lambda: mixed(a=Gaussian(2, conditional_posterior=["b"]), b=Gaussian(1, ["a"], conditional_posterior=True)),
        ConfigError,
        "latents 'a', 'b' form a cycle.*Remove one of the names in their conditional_posterior",
    ),
    "unknown in a posterior": (
        lambda: mixed(a=Gaussian(2, conditional_posterior=["bb"]), b=Gaussian(1, ["a"])),
        ConfigError,
        "'a': conditional_posterior 'bb' not found. Did you mean 'b'",
    ),
    "posterior that is one name": (
        lambda: Gaussian(2, conditional_posterior="b"),
        ConfigError,
        "conditional_posterior='b' must be true, false or a list of different names",
    ),
    "posterior that is a number": (
        lambda: Gaussian(2, conditional_posterior=3),
        ConfigError,
        "conditional_posterior=3 must be true",
    ),
    "parents that are one name": (lambda: Categorical(2, parents="y"), ConfigError, "parents='y' must be a list"),
    "a parent twice": (lambda: Categorical(2, parents=["y", "y"]), ConfigError, "different names"),
    "unknown among parents": (
        lambda: mixed(y=Categorical(3), z=Categorical(2, parents=["y", "x"])),
        ConfigError,
        "'z': parent 'x' not found.*'y'",
    ),
    "too many rows": (
        lambda: mixed(**{f"y{i}": Categorical(3, estimator=ScoreFunction(9)) for i in range(4)}),
        ConfigError,
        r"need 6561 evaluations.*9 \('y0'\) \* 9.*Reduce num_samples.*draw joint samples.*ELBO\(num_samples=4\)",
    ),
    "too many states": (
        lambda: mixed(
            a=Categorical(20, estimator=Enumerate()),
            b=Categorical(8, variables=3, estimator=Enumerate()),
            w=Gaussian(2, parents=["a", "b"], estimator=Pathwise(num_samples=2)),
        ),
        ConfigError,
        r"need 20480 evaluations.*Sample 'b' instead of listing its states \(512 evaluations\).*=ScoreFunction",
    ),
    "a smaller budget": (
        lambda: mixed(a=Categorical(20, estimator=Enumerate(max_states=50)), b=Categorical(4, estimator=Enumerate())),
        EstimatorError,
        r"latent 'a': .*80 states.*max_states=50.*Sample 'a' instead of listing its states",
    ),
    "pathwise category": (
        lambda: mixed(y=Categorical(3, estimator=Pathwise())),
        EstimatorError,
        r"latent 'y': Pathwise.* does not support .*OneHotCategorical.*ScoreFunction",
    ),
    "over the budget": (
        lambda: mixed(y=Categorical(10, variables=20, estimator=Enumerate())),
        EstimatorError,
        f"latent 'y': .*{10**20} states.*max_states=4096",
    ),
    "enumerated gaussian": (
        lambda: mixed(z=Gaussian(2, estimator=Enumerate())),
        EstimatorError,
        "latent 'z': Enumerate",
    ),
    "no latents": (mixed, ConfigError, "latents is empty"),
    "one category": (lambda: Categorical(1), ConfigError, "categories=1 "),
    "no variable": (lambda: Categorical(3, variables=0), ConfigError, "variables=0 "),
    "no bit": (lambda: Bernoulli(0), ConfigError, "dim=0 "),
    "no variables": (lambda: Product({}), ConfigError, "Product: variables={} is empty"),
    "one state": (lambda: Product({"a": 2, "b": 1}), ConfigError, "'b' must have at least 2 categories"),
    "no count": (lambda: Poisson(0), ConfigError, "Poisson: dim=0 "),
    "no rate": (lambda: Poisson(2, rate=0.0), ConfigError, "rate=0.0 positive"),
    "no topic": (lambda: Dirichlet(1), ConfigError, "topics=1 "),
    "no concentration": (lambda: Dirichlet(3, concentration=0.0), ConfigError, "concentration=0.0 "),
    "negative rate": (lambda: Gamma(3, rate=-1.0), ConfigError, "rate=-1.0 "),
    "no mean": (lambda: StudentT(3, df=1.0), ConfigError, "df=1.0 "),
    "no dimension": (lambda: GaussianVAE(FEATURES, NegativeBinomial(), latent_dim=0), ConfigError, "dim=0 "),
    "lone draw": (lambda: ScoreFunction(num_samples=1, baseline=LeaveOneOut()), EstimatorError, "at least 2"),
    "learning rate": (
        lambda: GaussianVAE(FEATURES, NegativeBinomial(), learning_rate=-1e-3),
        ConfigError,
        "learning_rate=-0.001",
    ),
    "weight decay": (lambda: GaussianVAE(FEATURES, NegativeBinomial(), weight_decay=-1.0), ConfigError, "weight_decay"),
    "no features": (lambda: GaussianVAE(0, NegativeBinomial()), ConfigError, "features=0 "),
    "no layer": (lambda: DiscreteVAE(FEATURES, NegativeBinomial(), hidden=[]), ConfigError, "hidden"),
    "dropout": (lambda: GaussianVAE(FEATURES, NegativeBinomial(), dropout=1.0), ConfigError, "dropout=1.0"),
    "name with a dot": (lambda: mixed(**{"a.b": Gaussian(2)}), ConfigError, r"a\.b"),
    "name of an attribute": (lambda: mixed(training=Gaussian(2)), ConfigError, "training"),
    "name of a metric": (
        lambda: mixed(weight=Gaussian(2)),
        ConfigError,
        "weight",
    ),  # train/kl_weight is the objective's
    "name of a method": (lambda: mixed(keys=Gaussian(2)), ConfigError, "keys"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    make, error, message = REFUSED[case]
    with pytest.raises(error, match=f"(?s){message}"):
        make()


@pytest.mark.parametrize("order", [("z", "y", "b"), ("z", "b", "y")])
def test_order_of_declaration_does_not_matter(order):
    latents = {
        "y": lambda: Categorical(3, learned_prior=True),
        "z": lambda: Gaussian(1, parents=["y"]),
        "b": lambda: Bernoulli(2),
    }
    first = sharpen(mixed(**{name: make() for name, make in latents.items()}))
    other = mixed(**{name: latents[name]() for name in order})
    other.load_state_dict(first.state_dict())
    gradients = []
    for model in (first, other):
        torch.manual_seed(0)  # both discrete latents are summed: only z has noise
        result = model.eval().loss(counts(), training=True)
        result.total.mean().backward()
        gradients.append((result.total, result.terms, {n: p.grad for n, p in model.named_parameters()}))
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("name", ["name", "_name", "self", "batch", "latent"])
def test_names_of_no_meaning(name):
    model = mixed(**{name: Categorical(3), "z": Gaussian(2, parents=[name])})
    result = model.loss(counts(), training=True)
    assert set(result.terms) == {"reconstruction", f"kl_{name}", "kl_z"}
    assert result.total.isfinite().all()


def test_decoder_does_not_see_a_parent():
    assert MODELS["mixed_child_first"](NegativeBinomial()).networks.seen_by_decoder == ("z",)
    assert MODELS["mixed_sampled"](NegativeBinomial()).networks.seen_by_decoder == ("b", "z")


def test_a_product_is_summed_exactly():
    model = mixed(y=Product({"kind": 4, "phase": 2}), z=Gaussian(2, parents=["y"]))
    assert isinstance(model.latents["y"].estimator, Enumerate)
    result = model.loss(counts(), training=True)
    result.total.mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert result.samples["y"].weight.sum(0).allclose(torch.ones(12))
    assert result.terms["kl_y"].isfinite().all()
