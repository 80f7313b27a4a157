"""Labels of a part of the cells: which values mean unknown, names of the categories, and no label of held-out cells."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

from vaekit.data import GeneExpressionData, ImageData, simulate_counts
from vaekit.exceptions import DataError

NUM_CELLS = 200


@pytest.fixture(scope="module")
def cells() -> AnnData:
    return simulate_counts(cells=NUM_CELLS, genes=20, clusters=3, batches=2, seed=1)


def labeled(cells: AnnData, values: Any) -> AnnData:
    """Return the cells with a column of labels; a short list is repeated."""
    adata = cells.copy()
    adata.obs["type"] = pd.Series(values, index=adata.obs_names) if len(values) == NUM_CELLS else None
    return adata


def repeat(*values: Any) -> list[Any]:
    return (list(values) * NUM_CELLS)[:NUM_CELLS]


def codes_of(adata: AnnData, **arguments: Any) -> tuple[np.ndarray, list[str]]:
    data = GeneExpressionData(adata, observed_key="type", **arguments)
    return data.observed_labels, data.observed_categories["type"]


CASES = {
    "text": (repeat("T", "B", "", " ", None, "Unknown"), ["B", "T"], [1, 0, -1, -1, -1, -1]),
    "categories": (pd.Categorical(repeat("T", "B", None, "Unknown")), ["B", "T"], [1, 0, -1, -1]),
    "unused category": (pd.Categorical(repeat("T", "B"), ["B", "C", "T", "Unknown"]), ["B", "T"], [1, 0]),
    "text of pandas": (pd.array(repeat("T", "B", pd.NA), "string"), ["B", "T"], [1, 0, -1]),
    "integers": (repeat(10, 2, 2), ["2", "10"], [1, 0, 0]),
    "nullable integers": (pd.array(repeat(10, 2, pd.NA), "Int64"), ["2", "10"], [1, 0, -1]),
    "numbers": (repeat(1.0, 2.0, np.nan), ["1.0", "2.0"], [0, 1, -1]),
    "bool": (repeat(True, False), ["False", "True"], [1, 0]),
    "nullable bool": (pd.array(repeat(True, pd.NA, False), "boolean"), ["False", "True"], [1, -1, 0]),
}


@pytest.mark.parametrize("case", CASES)
def test_values_that_mean_unknown(cells: AnnData, case: str) -> None:
    values, categories, codes = CASES[case]
    found, names = codes_of(labeled(cells, values))
    assert names == categories
    np.testing.assert_array_equal(found, repeat(*codes))


def test_another_name_means_unknown(cells: AnnData) -> None:
    adata = labeled(cells, repeat("T", "B", "not typed"))
    found, names = codes_of(adata, unlabeled_category="not typed")
    assert names == ["B", "T"]
    assert (found == -1).sum() == NUM_CELLS // 3
    with pytest.raises(DataError, match=r"unlabeled_category='not type' not found in .* Did you mean 'not typed'"):
        codes_of(adata, unlabeled_category="not type")


def test_a_category_that_seems_to_mean_unknown(cells: AnnData) -> None:
    with pytest.warns(UserWarning, match="category 'unknown', which is treated as a known label.*unlabeled_category"):
        codes_of(labeled(cells, repeat("T", "B", "unknown")))


@pytest.mark.parametrize("values", [repeat(0, 1, -1), repeat(0.0, 1.0, -1.0)])
def test_codes_of_minus_one_seem_to_mean_unknown(cells: AnnData, values: Any) -> None:
    adata = labeled(cells, values)
    with pytest.warns(UserWarning, match=r"category '-1(.0)?', which is treated as a known label"):
        codes_of(adata)
    codes, names = codes_of(adata, unlabeled_category="-1")
    assert len(names) == 2
    assert (codes == -1).sum() == NUM_CELLS // 3


def test_names_that_differ_only_in_blanks_or_case(cells: AnnData) -> None:
    with pytest.warns(UserWarning, match="'T ' and 'T'.*differ only in case or surrounding blanks; they are treated"):
        codes_of(labeled(cells, repeat("T", "B", "T ")))


def test_only_training_cells_have_labels(cells: AnnData) -> None:
    adata = labeled(cells, repeat("T", "B", None))
    data = GeneExpressionData(adata, observed_key="type")
    for split in ("train", "val", "test"):
        rows = data.split_indices[split]
        observed = data.dataset.__getitems__(rows).observed_label
        assert ((observed >= 0).any() if split == "train" else (observed == -1).all()).item()
        if split == "train":
            np.testing.assert_array_equal(observed, data.observed_labels[rows])
        assert next(iter(data.dataloader(split))).observed_label is not None
        assert (data.observed_labels[rows] >= 0).any()  # the split is stratified by the labels
    assert GeneExpressionData(adata).dataset.__getitems__([0]).observed_label is None


def test_labels_of_held_out_cells_do_not_matter(cells: AnnData) -> None:
    """With label_key, which decides the split, the labels of other cells change nothing that a model trains on."""
    adata = labeled(cells, repeat("T", "B", None))
    first = GeneExpressionData(adata, observed_key="type", label_key="cluster")
    changed = adata.obs["type"].to_numpy(dtype=object, copy=True)
    held_out = torch.cat([first.split_indices["val"], first.split_indices["test"]]).numpy()
    changed[held_out] = "T"
    second = GeneExpressionData(labeled(cells, changed), observed_key="type", label_key="cluster")
    assert torch.equal(first.dataset.observed_label, second.dataset.observed_label)
    assert torch.equal(first.split_indices["train"], second.split_indices["train"])


def test_labels_of_streamed_cells(cells: AnnData, tmp_path: Path) -> None:
    labeled(cells, repeat("T", "B", None)).write_h5ad(tmp_path / "cells.h5ad")
    data = [
        GeneExpressionData(path=str(tmp_path / "cells.h5ad"), observed_key="type", mode=mode)
        for mode in ("in_memory", "streamed")
    ]
    rows = [7, 3, 150]
    first, second = (each.dataset.__getitems__(rows).observed_label for each in data)
    assert torch.equal(first, second)
    assert data[0].observed_categories == data[1].observed_categories == {"type": ["B", "T"]}


def test_a_checkpoint_keeps_the_order_of_the_names(cells: AnnData) -> None:
    values = pd.Categorical(repeat("T", "B", None), ["T", "B"], ordered=True)
    data = GeneExpressionData(labeled(cells, values), observed_key="type")
    assert data.observed_categories == {"type": ["T", "B"]}
    resumed = GeneExpressionData(labeled(cells, repeat("T", "B", None)), observed_key="type")
    resumed.load_state_dict(data.state_dict())
    assert resumed.observed_categories == {"type": ["T", "B"]}
    assert torch.equal(resumed.dataset.observed_label, data.dataset.observed_label)
    other = GeneExpressionData(labeled(cells, repeat("T", "NK", None)), observed_key="type")
    other.load_state_dict(data.state_dict())
    with pytest.raises(DataError, match=r"unknown to the checkpoint: 'NK'\. It knows 'T', 'B'"):
        other.setup()


@pytest.mark.parametrize(
    ("values", "arguments", "message"),
    [
        (repeat("", None, "Unknown"), {}, "all 200 cells of AnnData.*are unlabeled"),
        ([str(number) for number in range(NUM_CELLS)], {}, "200 different labels for 200 labeled cells"),
        (repeat("T", "B"), {"observed_key": "typ"}, "observed_key='typ' not found in .obs.*Did you mean 'type'"),
        (repeat("T", "B"), {"batch_key": "type"}, "observed_key='type' is also a batch or covariate"),
        (repeat("T", "B"), {"categorical_covariate_keys": ["type"]}, "observed_key='type' is also a batch"),
        (repeat(["T"], ["B"]), {}, "cannot be categories"),
        (repeat("T", "B"), {"observed_key": 3}, "observed_key=3 must be the name of a column of .obs"),
        (repeat("T", "B"), {"label_key": ["type"]}, r"label_key=\['type'\] must be the name"),
        (repeat("T", "B"), {"batch_key": 3}, "batch_key=3 must be the name"),
    ],
)
def test_rejected_labels(cells: AnnData, values: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        GeneExpressionData(labeled(cells, values), **{"observed_key": "type", **arguments}).setup()


def test_a_category_that_is_seen_once(cells: AnnData) -> None:
    values = [*repeat("T", "B")[:-1], "rare"]
    with pytest.warns(UserWarning, match=r"few labeled training cells .*'rare' \([01]\); predictions"):
        _, names = codes_of(labeled(cells, values))
    assert names == ["B", "T", "rare"]


def test_no_warning_for_enough_labels(cells: AnnData) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        codes_of(labeled(cells, repeat("T", "B", None)))


def test_a_copy_of_the_data_has_the_labels(cells: AnnData) -> None:
    data = GeneExpressionData(labeled(cells, repeat("T", "B", None)), observed_key="type")
    copied = data.dataset.copy_to(torch.device("cpu")).__getitems__([0, 1, 5])
    assert torch.equal(copied.observed_label, data.dataset.__getitems__([0, 1, 5]).observed_label)
    assert copied.rows(torch.tensor([2, 0])).observed_label.tolist() == copied.observed_label[[2, 0]].tolist()


@pytest.mark.parametrize("binarization", ["dynamic", "fixed", "threshold", "none"])
def test_classes_of_images(binarization: str) -> None:
    data = ImageData("digits", observed_key="label", binarization=binarization)
    assert data.observed_categories == {"label": [str(digit) for digit in range(10)]}
    batch = data.loaded.train_dataset.__getitems__(data.split_indices["train"][:50])
    assert torch.equal(batch.observed_label, batch.label)
    assert (next(iter(data.test_dataloader())).observed_label == -1).all()
    assert data.loaded.train_dataset.copy_to(torch.device("cpu")).__getitems__([0]).observed_label is not None


def test_images_have_classes_only() -> None:
    with pytest.raises(DataError, match="observed_key='digit' must be 'label'"):
        ImageData("digits", observed_key="digit")
