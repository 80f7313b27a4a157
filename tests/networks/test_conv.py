"""Convolutional networks: shapes, the order of pixels, no statistics over the batch, errors, training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vaekit._core.components import from_config
from vaekit.data import ImageData
from vaekit.exceptions import ConfigError
from vaekit.latents import Categorical, Gaussian
from vaekit.likelihoods import Bernoulli
from vaekit.models import VAE
from vaekit.networks import ConvDecoder, ConvEncoder

SHAPES = [(1, 28, 28), (3, 32, 32), (1, 8, 8), (2, 9, 5), (1, 1, 3)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("sample_shape", [(), (2,), (3, 2)], ids=str)
def test_sizes_flow_through(shape, sample_shape):
    size = shape[0] * shape[1] * shape[2]
    encoder, decoder = ConvEncoder(shape, [4, 6], hidden=16), ConvDecoder(shape, [4, 6], hidden=16, num_feature_maps=3)
    assert (encoder.build(size), decoder.build(7)) == (16, 3 * size)
    assert encoder(torch.randn(*sample_shape, 5, size)).shape == (*sample_shape, 5, 16)
    assert decoder(torch.randn(*sample_shape, 5, 7)).shape == (*sample_shape, 5, 3 * size)


@pytest.mark.parametrize("make", [lambda: ConvEncoder((2, 6, 6), [4]), lambda: ConvDecoder((2, 6, 6), [4])])
def test_observations_do_not_depend_on_each_other(make):
    network = make()
    network.build(72)
    x = torch.randn(3, 4, 72)
    torch.testing.assert_close(network(x)[1, 2], network(x[1, 2:3])[0])
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


def test_each_layer_halves_the_image():
    network = ConvEncoder((1, 28, 28), [8, 16], hidden=32)
    network.build(784)
    sizes = []
    for layer in network.layers:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[1:])))
    network(torch.zeros(1, 784))
    assert sizes == [(8, 14, 14), (16, 7, 7)]
    assert network.sides == [(28, 28), (14, 14), (7, 7)]


def test_the_encoder_reads_pixels_in_the_order_of_the_data():
    """A change of one pixel changes only the features of the first layer around that pixel."""
    network = ConvEncoder((2, 8, 8), [3], hidden=4, normalize=False)
    network.build(128)
    first = network.layers[:2]
    x = torch.zeros(1, 128)
    moved = x.clone()
    moved[0, 64 + 3 * 8 + 5] = 1.0  # channel 1, row 3, column 5
    changed = (first(moved) != first(x))[0].any(0).nonzero().tolist()
    assert changed
    assert all(row in (1, 2) and column in (2, 3) for row, column in changed)


def test_the_decoder_keeps_feature_maps_of_a_value_together():
    network = ConvDecoder((2, 4, 4), [3], hidden=4, num_feature_maps=5)
    network.build(3)
    x = torch.randn(2, 3)
    maps = network.layers(x)  # [2, channels * num_feature_maps, height, width]
    outputs = network(x).reshape(2, 2, 4, 4, 5)
    for channel in range(2):
        for number in range(5):
            assert outputs[:, channel, :, :, number].equal(maps[:, channel * 5 + number])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvEncoder([28, 28], [8]), r"shape=\[28, 28\] must contain three positive numbers"),
        (lambda: ConvEncoder([1, 0, 28], [8]), "three positive numbers"),
        (lambda: ConvEncoder([1, 8, 8], []), r"channels=\[\]"),
        (lambda: ConvDecoder([1, 8, 8], [0]), r"channels=\[0\]"),
        (lambda: ConvDecoder([1, 8, 8], hidden=0), "hidden=0 must"),
        (lambda: ConvDecoder([1, 8, 8], num_feature_maps=0), "num_feature_maps=0 must"),
        (
            lambda: ConvEncoder([1, 8, 8]).build(65),
            r"shape=\[1, 8, 8\] has 64 values, but the data .* have 65.*"
            r"--model\.encoder\.shape and --model\.decoder\.shape",
        ),
    ],
)
def test_wrong_sizes(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def model(**kwargs):
    shape = [1, 8, 8]
    latents = {"y": Categorical(4), "z": Gaussian(3)}
    networks = ConvEncoder(shape, [4, 8], hidden=16), latents, ConvDecoder(shape, [4, 8], hidden=16, num_feature_maps=2)
    return VAE(64, *networks, Bernoulli(pixelwise=True), **kwargs)


def test_a_model_learns_and_is_created_again():
    vae, batch = model(), next(iter(ImageData("digits").train_dataloader()))
    optimizer = torch.optim.Adam(vae.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss = vae.loss(batch, training=True).total.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 5
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())
    again = from_config(vae.config)
    again.load_state_dict(vae.state_dict())
    assert again.posteriors(batch)["z"].mean.equal(vae.posteriors(batch)["z"].mean)
