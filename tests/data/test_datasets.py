import numpy as np
import pytest
import torch
from scipy import sparse
from torch.utils.data import DataLoader

from vaekit.data.cells.count_dataset import CountDataset
from vaekit.data.dataset import identity_collate
from vaekit.data.images.image_dataset import ImageDataset


@pytest.fixture
def counts() -> np.ndarray:
    counts = np.random.default_rng(0).poisson(0.7, size=(23, 7)).astype(np.float32)
    counts[4] = 0
    return counts


def test_rows_come_as_asked(counts):
    covariates, label = torch.rand(23, 2), torch.arange(23) % 3
    dataset = CountDataset(sparse.csr_matrix(counts), covariates, label)
    rows = [5, 4, 5, 22]
    batch = dataset.__getitems__(rows)
    np.testing.assert_array_equal(batch.x, counts[rows])
    assert batch.x.dtype == batch.size_factor.dtype == torch.float32
    assert batch.size_factor.tolist() == [[max(total, 1)] for total in counts[rows].sum(1)]
    assert batch.covariates.equal(covariates[rows])
    assert batch.label.equal(label[rows])
    assert batch.index.tolist() == rows


def test_empty_cell_has_size_factor_one(counts):
    dataset = CountDataset(sparse.csr_matrix(counts))
    assert dataset.size_factor[4].item() == 1
    assert (dataset.size_factor >= 1).all()


@pytest.mark.parametrize("rows", [[5, 4, 5, 22], [4], [], list(range(23))])
def test_non_zero_entries(counts, rows):
    batch = CountDataset(sparse.csr_matrix(counts)).__getitems__(rows)
    assert batch.entries is batch.nonzero
    _, starts, column, value = batch.nonzero
    found = sparse.csr_matrix((value, column, starts), shape=(len(rows), 7))
    np.testing.assert_array_equal(found.toarray(), counts[rows])


def test_non_zero_entries_are_of_the_counts_as_they_were(counts):
    dataset = CountDataset(sparse.csr_matrix(counts))
    batch = dataset.__getitems__([1, 2])
    assert batch.to("cpu").entries is batch.nonzero
    assert batch._replace(x=batch.x.clone()).entries is None
    assert batch.to("meta").nonzero is None
    with torch.inference_mode():
        assert dataset.__getitems__([1, 2]).entries is not None
    batch.x.mul_(2)
    assert batch.entries is None


def test_absent_fields_are_none(counts):
    batch = CountDataset(sparse.csr_matrix(counts)).__getitems__([0])
    assert batch.covariates is None
    assert batch.label is None


def test_single_rows(counts):
    dataset = CountDataset(sparse.csr_matrix(counts))
    assert dataset[-1].index.tolist() == [22]
    assert dataset[3].x.shape == (1, 7)
    assert len(list(dataset)) == len(dataset) == 23
    with pytest.raises(IndexError):
        dataset[23]


def test_loader_slices_whole_batches(counts):
    loader = DataLoader(
        CountDataset(sparse.csr_matrix(counts)), batch_size=8, shuffle=True, collate_fn=identity_collate
    )
    batches = list(loader)
    assert [len(batch.x) for batch in batches] == [8, 8, 7]
    index = torch.cat([batch.index for batch in batches])
    assert index.sort().values.equal(torch.arange(23))
    np.testing.assert_array_equal(torch.cat([batch.x for batch in batches]), counts[index.numpy()])


def test_images_are_scaled_or_drawn():
    pixels = torch.tensor([[0, 4, 8, 16]] * 500, dtype=torch.uint8)
    label = torch.zeros(500, dtype=torch.int64)
    grey = ImageDataset(pixels, 16, label).__getitems__([0, 1])
    assert grey.x.tolist() == [[0, 0.25, 0.5, 1]] * 2
    assert grey.x.dtype == torch.float32
    drawn = ImageDataset(pixels, 16, label, draw=True)
    torch.manual_seed(0)
    first, second = (drawn.__getitems__(list(range(500))).x for _ in range(2))
    assert set(first.unique().tolist()) == {0, 1}
    assert not first.equal(second)
    torch.testing.assert_close(first.mean(0), torch.tensor([0, 0.25, 0.5, 1]), atol=0.09, rtol=0)  # four sigma
    torch.manual_seed(0)
    assert first.equal(drawn.__getitems__(list(range(500))).x)
