import numpy as np
import pandas as pd
import pytest

from vaekit.data.cells.columns import one_hot, read_batches, read_categories, read_column, read_numeric
from vaekit.exceptions import DataError


def obs(**columns) -> pd.DataFrame:
    return pd.DataFrame(columns)


@pytest.mark.parametrize(
    ("values", "categories", "codes"),
    [
        (["b", "a", None, "b"], ["a", "b"], [1, 0, -1, 1]),
        ([10, 2, 2, 10], ["2", "10"], [1, 0, 0, 1]),
        ([1.0, np.nan, 2.5, 1.0], ["1.0", "2.5"], [0, -1, 1, 0]),
        ([True, False, True, True], ["False", "True"], [1, 0, 1, 1]),
        (pd.Categorical(["b", "a", "b", None], categories=["c", "b", "a"]), ["b", "a"], [0, 1, 0, -1]),
        ([1, "1", 2, None], ["1", "2"], [0, 0, 1, -1]),
        (["10", "2", "0", "2"], ["0", "2", "10"], [2, 1, 0, 1]),
        (pd.Categorical(["10", "2", "0", "2"]), ["0", "2", "10"], [2, 1, 0, 1]),
        (pd.Categorical(["10", "2"], ["10", "2"], ordered=True), ["10", "2"], [0, 1]),
        (["day 10", None, "day 2", "0.5"], ["0.5", "day 2", "day 10"], [2, -1, 1, 0]),
        ([1.5, 1.25, -2.0], ["-2.0", "1.25", "1.5"], [2, 1, 0]),
        ([np.nan] * 4, [], [-1] * 4),
    ],
)
def test_values_become_categories(values, categories, codes):
    column = read_column(obs(key=values), "key", "label_key", "file")
    assert column.categories == categories
    assert column.codes.tolist() == codes
    assert column.names().tolist() == [None if code < 0 else categories[code] for code in codes]


def test_missing_column_names_the_nearest():
    with pytest.raises(DataError, match=r"label_key='cell_typ' not found in \.obs of f\.h5ad.*'cell_type'"):
        read_column(obs(cell_type=["a"], batch=["b"]), "cell_typ", "label_key", "f.h5ad")


def test_column_name_twice():
    table = pd.DataFrame([["a", "b"]], columns=["key", "key"])
    with pytest.raises(DataError, match="several columns"):
        read_column(table, "key", "label_key", "file")


def test_batches_are_one_hot():
    encoded = one_hot(read_batches(obs(batch=["y", "x", "y"]), "batch", "file"))
    assert encoded.tolist() == [[0, 1], [1, 0], [0, 1]]
    assert one_hot(read_batches(obs(batch=["y"]), None, "file")) is None


def test_missing_batches_are_counted():
    with pytest.raises(DataError, match=r"batch_key='batch': 2 of 4 cells of file have no batch"):
        read_batches(obs(batch=["x", None, "x", np.nan]), "batch", "file")


def test_a_column_of_numbers_is_no_batch():
    with pytest.raises(DataError, match="10 different values in 10 cells"):
        read_batches(obs(batch=np.arange(10.0)), "batch", "file")


def test_reference_numbers_the_batches():
    column = read_batches(obs(batch=["y", "z", "y"]), "batch", "file", trained=["z", "x", "y"])
    assert column.codes.tolist() == [2, 0, 2]
    assert one_hot(column).shape == (3, 3)


def test_reference_with_one_batch_needs_no_key():
    assert one_hot(read_batches(obs(a=["y", "z"]), None, "file", trained=["only"])).tolist() == [[1], [1]]


@pytest.mark.parametrize(
    ("key", "reference", "message"),
    [
        ("batch", ["x", "w"], r"are unknown to the checkpoint: 'y'. It knows 'x', 'w'"),
        (
            "batch",
            ["x", " Y"],
            r"are unknown to the checkpoint: 'y'. It knows .*\. 'y' and ' Y' differ only in case or surrounding",
        ),
        ("batch", [], r"trained without batches. Omit batch_key"),
        (None, ["x", "w"], r"batch_key is required for file.*'x', 'w'"),
    ],
)
def test_batches_that_do_not_fit_the_reference(key, reference, message):
    with pytest.raises(DataError, match=message):
        read_batches(obs(batch=["x", "y", "x", "y"]), key, "file", reference)


def test_batches_that_differ_by_blanks_or_case_alone():
    with pytest.warns(UserWarning, match="'x ' and 'X' differ only in case or surrounding blanks; they are treated as"):
        column = read_batches(obs(batch=["x ", "X", "y"] * 2), "batch", "file")
    assert column.categories == ["X", "x ", "y"]


@pytest.mark.parametrize(
    ("values", "positive", "message"),
    [
        ([1.0, np.nan, 2.0, np.nan], False, "2 of 4 cells of file have a value that is NaN, the first nan in cell '1'"),
        ([1.0, 2.0, np.inf, 1.0], False, "1 of 4 cells of file have a value that is infinite, the first inf in cell"),
        ([1.0, 0.0, -1.0, 1.0], True, "2 of 4 cells of file have a value that is not positive, the first 0 in cell"),
        (["1", "2", "3", "4"], False, "type .*, such as '1', but must be numbers"),
        (pd.Categorical([1, 2, 1, 2]), False, "type category, such as '1', but"),
        ([1 + 2j, 0, 0, 0], False, "type complex128"),
        (pd.array([1, None, 2, 3], dtype="Int64"), False, "1 of 4 cells of file have a value that is NaN"),
    ],
)
def test_values_that_are_no_numbers(values, positive, message):
    with pytest.raises(DataError, match=f"key='x': .*{message}"):
        read_numeric(obs(x=values), "x", "key", "file", positive)


@pytest.mark.parametrize(
    "values", [[1, 2], [1.0, 2.0], np.array([1, 2], dtype=np.uint8), pd.array([1, 2], dtype="Int64")]
)
def test_numbers(values):
    numbers = read_numeric(obs(x=values), "x", "key", "file", positive=True)
    assert (numbers.dtype, numbers.tolist()) == (np.float64, [1, 2])


def test_negative_numbers_and_bools_are_numbers():
    assert read_numeric(obs(x=[-1.5, 0.0]), "x", "key", "file").tolist() == [-1.5, 0]
    assert read_numeric(obs(x=[True, False]), "x", "key", "file").tolist() == [1, 0]


@pytest.mark.parametrize(
    "trained", [[1, 2, 1, 2], [1.0, 2.0, 1.0, 2.0], ["1", "2", "1", "2"], ["1.0", "2.0", "1.0", "2.0"]]
)
@pytest.mark.parametrize(
    "given",
    [
        [2, 1, 2, 2],
        np.array([2, 1, 2, 2], np.float32),
        ["2", "1", "2", "2"],
        ["2.0", "1.0", "2.0", "2"],
        pd.Categorical([2, 1, 2, 2]),
        pd.array([2, 1, 2, 2], dtype="Int64"),
        [b"2", b"1", b"2", b"2"],
    ],
)
def test_whole_numbers_are_the_same_batch_in_any_type(trained, given):
    known = read_column(obs(key=trained), "key", "batch_key", "file").categories
    assert read_categories(obs(key=given), "key", "batch_key", "file", known).codes.tolist() == [1, 0, 1, 1]


def test_other_names_are_not():
    with pytest.raises(DataError, match=r"are unknown to the checkpoint: .01., .b1\.0."):
        read_categories(obs(key=["01", "b1.0", "01", "1"]), "key", "batch_key", "file", ["1", "b1"])


@pytest.mark.parametrize("values", [[["a"], ["b"], ["a"]], [{"a": 1}, {"b": 2}, {}]])
def test_values_that_are_no_categories(values):
    with pytest.raises(DataError, match=r"batch_key='key': values of file, such as .* cannot be categories .*astype"):
        read_column(obs(key=values), "key", "batch_key", "file")
