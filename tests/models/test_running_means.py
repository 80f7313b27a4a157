import pytest
import torch

from vaekit.models.running_means import RunningMeans, mean_terms


def test_rows_are_weighted_alike_and_a_batch_by_its_rows():
    means = RunningMeans()
    temperature = torch.tensor(1.0)
    means.add({"reconstruction": torch.tensor([1.0, 2.0, 3.0]), "kl_z": torch.ones(3)}, {"tau": temperature, "w": 0.0})
    temperature.fill_(5.0)  # schedules go on in place
    means.add({"reconstruction": torch.tensor([10.0]), "kl_z": torch.tensor([5.0])}, {"tau": temperature, "w": 1.0})
    assert means.rows == 4
    found = means.take()
    wanted = {"elbo": -6.0, "reconstruction": 4.0, "kl_z": 2.0, "tau": 2.0, "w": 0.25}
    assert {name: float(value) for name, value in found.items()} == pytest.approx(wanted)
    assert means.rows == 0


def test_no_graph_is_kept():
    means = RunningMeans()
    x = torch.ones(2, requires_grad=True)
    means.add({"reconstruction": x * 2}, {"objective": (x * 2).mean()})
    assert not any(torch.as_tensor(value).requires_grad for value in means.take().values())


def test_a_process_without_rows():
    means = RunningMeans()
    means.add({"reconstruction": torch.zeros(0)}, {"kl_weight": 1.0})
    assert float(means.take()["elbo"]) == 0
    assert float(mean_terms({"reconstruction": torch.zeros(0)})["elbo"]) == 0
