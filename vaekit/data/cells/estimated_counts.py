"""Values that are not whole numbers: their likely origin, and the rounding of estimated counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from scipy import sparse

MAX_LOG = 30  # a logarithm of counts cannot be larger: exp(30) is 10 trillion reads
ROUNDING_ERROR = 1e-4  # relative to values above 1
WHOLE_FRACTION = 0.1  # of the values of estimated counts, such as those of RSEM, at least
NEAR, NEAR_FRACTION = 0.15, 0.5  # of counts from which a small number was subtracted; 0.3 of evenly spread values
MIN_CELLS, MIN_VALUES = 10, 1000  # for evidence that holds over many cells only
MULTIPLES, MIN_MULTIPLES = 0.95, 20  # fraction and number of values that are multiples of the smallest one of the cell
TOLERANCE = 0.01
TRAINING_REMEDY = (
    "Pass round_counts=True (--data.round_counts true) to round estimated counts, or pass the counts before the "
    "correction."
)
QUERY_REMEDY = (
    "The model was trained on counts without rounding (round_counts=False): pass the counts before the correction, or "
    "round the values with numpy.rint."
)


def _expm1_2(values: np.ndarray) -> np.ndarray:
    return np.exp2(values) - 1


def _expm1_10(values: np.ndarray) -> np.ndarray:
    return np.power(10.0, values) - 1


# Name, formula, inverse in code and as a function, and largest value: float32 holds larger counts without decimals.
TRANSFORMATIONS = (
    ("log2-transformed", "log2(1 + x)", "numpy.exp2(x) - 1", _expm1_2, 17),
    ("log-transformed", "log(1 + x)", "numpy.expm1(x)", np.expm1, 12),
    ("log10-transformed", "log10(1 + x)", "10**x - 1", _expm1_10, 5),
    ("like square roots", "sqrt(x)", "x**2", np.square, 300),
)


class ValueKind(NamedTuple):
    """Kind of values that are not whole numbers.

    Attributes
    ----------
    text : str
        End of a message: the likely origin of the values, and the remedy.
    is_transformed : bool
        Whether they are certainly not counts but a transformation of them, which rounding would destroy.
    """

    text: str
    is_transformed: bool = False


def recognize(counts: sparse.csr_matrix, remedy: str) -> ValueKind:
    """Return the likely origin of positive values that are not all whole.

    Parameters
    ----------
    counts : csr_matrix
        Values, without stored zeros.
    remedy : str
        Sentence for values that can be rounded.
    """
    data = counts.data
    distance = np.abs(data - np.rint(data))
    if (distance <= ROUNDING_ERROR * np.maximum(data, 1)).all():
        return ValueKind(
            f"; they differ from whole numbers by {distance.max():.1g} at most, a rounding error. {remedy}"
        )
    if text := _transformation(data):
        return ValueKind(text, True)
    if (num_whole := int((distance == 0).sum())) > WHOLE_FRACTION * len(data):
        return ValueKind(
            f"; {num_whole} other values are whole. They look like estimated counts, such as those of RSEM. {remedy}"
        )
    if text := _normalization(counts):
        return ValueKind(f"; they look {text}. Pass the counts before normalization", True)
    if (distance <= NEAR).mean() > NEAR_FRACTION:
        return ValueKind("; most are near whole numbers, like counts that SoupX or DecontX have corrected. " + remedy)
    if data.max() <= MAX_LOG:
        text = f"; they look log-normalized (largest value {data.max():.3g}). Pass the counts before normalization"
        return ValueKind(text, counts.shape[0] >= MIN_CELLS and len(data) >= MIN_VALUES)
    return ValueKind(f"; they look averaged or corrected. {remedy}")


class Rounding:
    """Rounding of estimated counts to whole numbers, with a record of the changes.

    The record covers each cell once, although the source may be read several times in the same chunks.
    """

    def __init__(self) -> None:
        self.first_rows: set[int] = set()
        self.num_rows = 0  # that were read in order, and can be rounded
        self.num_values = self.num_rounded = 0
        self.change = self.total_before = self.total_after = 0.0

    def round(self, counts: sparse.csr_matrix, first_row: int) -> sparse.csr_matrix:
        """Return counts with rounded values (half to even) and without zeros; record the changes of new chunks."""
        before = counts.data
        counts = counts.copy()
        counts.data = np.rint(before)
        if first_row not in self.first_rows:
            self.first_rows.add(first_row)
            self.num_rows = max(self.num_rows, first_row + counts.shape[0])
            self.num_values += len(before)
            self.num_rounded += int((counts.data != before).sum())
            self.change += float(np.abs(counts.data - before).sum(dtype=np.float64))
            self.total_before += float(before.sum(dtype=np.float64))
            self.total_after += float(counts.data.sum(dtype=np.float64))
        counts.eliminate_zeros()
        return counts

    def note(self) -> str:
        """Return a sentence on the changes; "" without any."""
        if not self.num_rounded:
            return ""
        fraction, change = self.num_rounded / self.num_values, self.total_after / self.total_before - 1
        return (
            f"round_counts=True rounded {self.num_rounded} of {self.num_values} values ({fraction:.1%}), by "
            f"{self.change / self.num_rounded:.2g} on average; the total count changes by {change:+.2%}."
        )


def _transformation(data: np.ndarray) -> str:
    """Return the transformation of counts with these values, and its inverse, or ""."""
    for name, formula, inverse, function, largest in TRANSFORMATIONS:
        if data.max() <= largest and _are_whole(function(data.astype(np.float64))):
            return f"; they look {name}: {formula} of counts. Rounding {inverse} gives the counts"
    return ""


def _normalization(counts: sparse.csr_matrix) -> str:
    """Return the normalization of counts with these values, or ""."""
    if _are_multiples(counts) or _common_total(counts):
        return "normalized: counts times a factor per cell"
    if counts.data.max() > MAX_LOG:
        return ""
    if total := _common_total(_transform(counts, np.expm1)):
        return f"log-normalized: log1p of counts scaled to {total:.4g} per cell"
    is_log = any(_are_multiples(_transform(counts, function)) for function in (_expm1_2, np.expm1, _expm1_10))
    return "log-normalized" if is_log else ""


def _are_whole(values: np.ndarray) -> bool:
    """Return whether all values are whole numbers within the precision of float32."""
    return bool(np.allclose(values, np.rint(values), rtol=1e-6, atol=1e-5))


def _are_multiples(counts: sparse.csr_matrix) -> bool:
    """Return whether nearly all values of a cell are multiples of its smallest one, as after division by its total."""
    filled = np.diff(counts.indptr) > 0
    smallest = np.minimum.reduceat(counts.data, counts.indptr[:-1][filled]).astype(np.float64)
    ratio = counts.data / np.repeat(smallest, np.diff(counts.indptr)[filled])
    larger = ratio[ratio > 1 + TOLERANCE]
    return len(larger) >= MIN_MULTIPLES and (np.abs(larger - np.rint(larger)) <= TOLERANCE).mean() >= MULTIPLES


def _common_total(counts: sparse.csr_matrix) -> float | None:
    """Return the total of each cell if it is the same for all cells, else None."""
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    totals = totals[totals > 0]
    is_common = len(totals) >= MIN_CELLS and np.ptp(totals) < TOLERANCE * totals.mean()
    return float(totals.mean()) if is_common else None


def _transform(counts: sparse.csr_matrix, function: Callable[[np.ndarray], np.ndarray]) -> sparse.csr_matrix:
    """Return ``function`` of the stored values."""
    from scipy import sparse

    return sparse.csr_matrix((function(counts.data.astype(np.float64)), counts.indices, counts.indptr), counts.shape)
