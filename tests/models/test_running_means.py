import pytest
import torch

from vaekit.models.metric_accumulator import MetricAccumulator, mean_terms


def test_rows_are_weighted_alike_and_a_batch_by_its_rows():
    means = MetricAccumulator()
    temperature = torch.tensor(1.0)
    means.update(
        {"reconstruction": torch.tensor([1.0, 2.0, 3.0]), "kl_z": torch.ones(3)}, {"tau": temperature, "w": 0.0}
    )
    temperature.fill_(5.0)  # schedules change in place
    means.update({"reconstruction": torch.tensor([10.0]), "kl_z": torch.tensor([5.0])}, {"tau": temperature, "w": 1.0})
    assert means.num_observations == 4
    found = means.compute()
    means.reset()
    wanted = {"elbo": -6.0, "reconstruction": 4.0, "kl_z": 2.0, "tau": 2.0, "w": 0.25}
    assert {name: float(value) for name, value in found.items()} == pytest.approx(wanted)
    assert means.num_observations == 0


@pytest.mark.parametrize("stop", [1, 49, 50, 51, 120])
def test_sums_that_are_stored_and_continued(stop):
    """Bit by bit, wherever they were stored: also where steps were waiting to be added."""
    generator = torch.Generator().manual_seed(0)
    steps = [(torch.randn(7, generator=generator), torch.randn((), generator=generator)) for _ in range(130)]
    whole, first, second = MetricAccumulator(), MetricAccumulator(), MetricAccumulator()
    for number, (term, loss) in enumerate(steps):
        for means in (whole, first if number < stop else second):
            means.update({"reconstruction": term, "kl_z": term.square()}, {"objective": loss, "kl_weight": 0.1})
        if number + 1 == stop:
            second.load_state_dict(first.state_dict())
    assert second.compute() == whole.compute()
    terms = torch.stack([term for term, _ in steps]).double()
    assert float(-(terms + terms.square()).mean()) == pytest.approx(first_elbo(steps), rel=1e-5)


def first_elbo(steps):
    means = MetricAccumulator()
    for term, loss in steps:
        means.update({"reconstruction": term, "kl_z": term.square()}, {"objective": loss})
    return means.compute()["elbo"]


def test_no_graph_is_kept():
    means = MetricAccumulator()
    x = torch.ones(2, requires_grad=True)
    means.update({"reconstruction": x * 2}, {"objective": (x * 2).mean()})
    kept = [value for _, step in means._pending for value in step.values()]
    assert kept
    assert not any(value.requires_grad for value in kept)


def test_a_process_without_rows():
    means = MetricAccumulator()
    means.update({"reconstruction": torch.zeros(0)}, {"kl_weight": 1.0})
    assert float(means.compute()["elbo"]) == 0
    assert float(mean_terms({"reconstruction": torch.zeros(0)})["elbo"]) == 0
