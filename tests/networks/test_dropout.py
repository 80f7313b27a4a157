"""Dropout from numbers that are worked out side by side: shares, independence, seeds, gradients."""

import copy
import pickle

import pytest
import torch
from torch import nn

from vaekit.networks import MLP
from vaekit.networks.dropout import Dropout, noise

COUNT = 200_000
Z = 4.5  # of some 20 comparisons with a normal variable: a false alarm in 7,000 runs of other seeds


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
def test_share_and_scale(p):
    drawn = noise(torch.Size([COUNT]), p)
    assert drawn.unique().tolist() == pytest.approx([0, 1 / (1 - p)])
    dropped = (drawn == 0).double().mean()
    assert abs(dropped - p) < Z * (p * (1 - p) / COUNT) ** 0.5


@pytest.mark.parametrize("lag", [1, 2, 8, 64, 128])
def test_neighbours_and_calls_are_independent(lag):
    one, other = (noise(torch.Size([COUNT]), 0.5).double() - 1 for _ in range(2))
    for x, y in ((one[lag:], one[:-lag]), (one, other), (one[lag:], other[:-lag])):
        assert abs((x * y).mean()) < Z / len(x) ** 0.5


def test_successive_calls_drop_each_value_as_often():
    torch.manual_seed(0)
    dropped = torch.stack([noise(torch.Size([16]), 0.5) == 0 for _ in range(5000)]).double().mean(0)
    assert ((dropped - 0.5).abs() < Z * 0.5 / 5000**0.5).all()


def test_the_global_seed_decides():
    layer, x = Dropout(0.5), torch.ones(50, 3)
    torch.manual_seed(1)
    first, second = layer(x), layer(x)
    torch.manual_seed(1)
    assert first.equal(layer(x))
    assert not first.equal(second)


def test_gradients_pass_where_values_do():
    x = torch.randn(40, 5, requires_grad=True)
    out = Dropout(0.3)(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(out, x * gradient)
    assert 0 < (gradient == 0).sum() < x.numel()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_stay(dtype):
    assert Dropout(0.5)(torch.ones(9, 2, dtype=dtype)).dtype == dtype


def test_no_values_and_none_dropped():
    assert Dropout(0.5)(torch.ones(0, 3)).shape == (0, 3)
    x = torch.randn(3)
    assert Dropout(0.0)(x).equal(x)
    assert Dropout(1.0)(x).eq(0).all()
    assert Dropout(0.5).eval()(x).equal(x)


def test_a_copied_or_stored_network_is_the_same():
    network = MLP([6], dropout=0.5)
    network.build(4)
    assert isinstance(network.layers[3], nn.Dropout)
    x = torch.randn(7, 4)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        torch.manual_seed(0)
        wanted = network(x)
        torch.manual_seed(0)
        assert other(x).equal(wanted)


def test_under_vmap_torch_draws():
    network = MLP([6], dropout=0.5)
    network.build(4)
    assert torch.vmap(network, randomness="different")(torch.randn(5, 3, 4)).shape == (5, 3, 6)
