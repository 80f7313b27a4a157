import numpy as np
import pytest
import torch

from vaekit._core.memory_budget import CHUNK_IMAGES
from vaekit.data import ImageData
from vaekit.data.images.deskew import deskew


def moments(pixels):
    """Return the centre and the correlation of columns and rows of each image's ink."""
    ink = pixels.double().sum(1)
    ink = ink / ink.sum((1, 2), keepdim=True)
    v, u = torch.arange(ink.shape[1]).double(), torch.arange(ink.shape[2]).double()
    centre_v, centre_u = (ink.sum(2) * v).sum(1), (ink.sum(1) * u).sum(1)
    from_v, from_u = v - centre_v[:, None], u - centre_u[:, None]
    variances = (ink.sum(2) * from_v**2).sum(1), (ink.sum(1) * from_u**2).sum(1)
    covariance = torch.einsum("nvu,nv,nu->n", ink, from_v, from_u)
    return torch.stack([centre_v, centre_u], -1), covariance / (variances[0] * variances[1]).sqrt()


def stroke(slant, height=29, width=41, shift=(0, 0)):
    """Return a smooth stroke 13 rows high whose middle moves by ``slant`` columns a row."""
    v = np.arange(height)[:, None] - height // 2 - shift[0]
    u = np.arange(width)[None] - width // 2 - shift[1]
    ink = np.exp(-((u - slant * v) ** 2) / 4) * (np.abs(v) <= 6)
    return torch.from_numpy(np.rint(255 * ink).astype(np.uint8))[None, None]


@pytest.mark.parametrize("slant", [-1.2, -0.4, 0.0, 0.7])
@pytest.mark.parametrize("shift", [(0, 0), (3, -5)])
def test_a_slanted_stroke_becomes_the_upright_one_in_the_middle(slant, shift):
    found = deskew(stroke(slant, shift=shift))
    assert found.dtype == torch.uint8
    difference = (found.float() - stroke(0.0).float()).abs()
    assert difference.max() < 40  # bilinear reading blurs a little
    assert difference.mean() < 0.5


def test_columns_and_rows_are_uncorrelated_afterwards():
    pixels = torch.cat([stroke(0.8, shift=(1, 2)), stroke(-0.5, shift=(-2, 0))])
    pixels[:, :, 15:18, 10:20] = 200  # of no symmetry
    centre, correlation = moments(deskew(pixels))
    torch.testing.assert_close(centre, torch.tensor([[14.0, 20.0]] * 2).double(), atol=0.15, rtol=0)
    assert (moments(pixels)[1].abs() > 0.2).all()
    assert (correlation.abs() < 0.03).all()


def test_channels_move_together():
    grey = stroke(0.6)
    colour = torch.cat([grey, grey // 2, torch.zeros_like(grey)], 1)
    found = deskew(colour)
    torch.testing.assert_close(found[:, 1].float(), found[:, 0].float() / 2, atol=1.0, rtol=0)
    assert not found[:, 2].any()


def test_images_without_ink_or_in_one_row_are_kept():
    blank = torch.zeros(1, 1, 7, 9, dtype=torch.uint8)
    row = blank.clone()
    row[..., 3, 2:7] = 90
    assert deskew(torch.cat([blank, row])).equal(torch.cat([blank, row]))


def test_many_images_go_by_chunks():
    pixels = stroke(0.5, 9, 9).expand(CHUNK_IMAGES + 3, 1, 9, 9).contiguous()
    found = deskew(pixels)
    assert found.equal(found[:1].expand_as(found))


def test_data_are_deskewed_before_they_are_binarized():
    plain, upright = (ImageData(binarization="none", deskew=deskewed) for deskewed in (False, True))
    assert upright.image_shape == plain.image_shape
    assert ", deskewed, binarization none" in upright.description
    pixels = plain.loaded.dataset.pixels.unflatten(1, plain.image_shape)
    assert upright.loaded.dataset.pixels.equal(deskew(pixels).flatten(1))
    assert all(upright.split_indices[name].equal(rows) for name, rows in plain.split_indices.items())
    drawn = next(iter(ImageData(deskew=True).train_dataloader())).x
    assert drawn.unique().tolist() == [0, 1]
