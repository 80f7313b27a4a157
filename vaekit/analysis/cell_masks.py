"""Masks of cells, given as booleans or as a condition on the columns of ``adata.obs``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.exceptions import DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd


def is_mask(value: Any) -> bool:
    """Return whether a value holds booleans, one per cell.

    Examples
    --------
    >>> is_mask([True, False]), is_mask(["A", "B"]), is_mask(True)
    (True, False, False)
    """
    if isinstance(value, str | bytes) or not hasattr(value, "__len__"):
        return False
    values = np.asarray(value)
    return values.dtype == bool or (values.size > 0 and all(isinstance(one, bool | np.bool_) for one in values.ravel()))


def cell_mask(obs: pd.DataFrame, value: Any, argument: str, source: str) -> np.ndarray:
    """Return the mask of the cells that ``value`` selects, bool ``[cells]``.

    Parameters
    ----------
    obs : DataFrame
        Table of the cells.
    value : array, Series or str
        One boolean per cell; a Series is aligned by the names of the cells. A string is a condition for
        :meth:`pandas.DataFrame.eval`, such as ``"cell_type == 'B' and n_counts > 500"``. Missing values select nothing.
    argument, source : str
        Names of the argument and of the cells in messages.

    Raises
    ------
    DataError
        If the mask does not have one boolean per cell or selects none, or the condition is invalid.
    """
    mask = _evaluate(obs, value, argument, source) if isinstance(value, str) else _align(obs, value, argument, source)
    if not mask.any():
        what = f"{argument}={value!r}" if isinstance(value, str) else argument
        raise DataError(f"{what} selects none of the {len(obs)} cells of {source}. Check the names of the groups.")
    return mask


def _evaluate(obs: pd.DataFrame, condition: str, argument: str, source: str) -> np.ndarray:
    import pandas as pd

    hint = "A condition is, for example, \"cell_type == 'B'\". To name a group of a column, pass groupby='COLUMN'."
    try:
        values = obs.eval(condition, engine="python", local_dict={}, global_dict={})
    except pd.errors.UndefinedVariableError as error:
        name = str(error).split("'")[1]
        raise DataError(
            f"{argument}={condition!r}: {name!r} not found in .obs of {source}. "
            f"{did_you_mean(name, map(str, obs.columns))} {hint}"
        ) from error
    except Exception as error:  # pandas and Python raise many types
        problem = " ".join(str(error).split())
        raise DataError(
            f"{argument}={condition!r} is not a valid condition on .obs of {source} ({problem}). {hint}"
        ) from error
    if not isinstance(values, pd.Series) or not pd.api.types.is_bool_dtype(values.dtype):
        raise DataError(f"{argument}={condition!r} must be true or false for each cell of {source}. {hint}")
    return values.fillna(False).to_numpy(dtype=bool)


def _align(obs: pd.DataFrame, value: Any, argument: str, source: str) -> np.ndarray:
    import pandas as pd

    if isinstance(value, pd.Series):
        value = _reorder(obs, value, argument, source)
    values = np.asarray(value)
    if values.shape != (len(obs),):
        raise DataError(
            f"{argument} is a mask of shape {values.shape}, but must have one boolean for each of the {len(obs)} cells "
            f"of {source}. Select the same cells in both."
        )
    if not is_mask(values):
        kind = pd.Series(value).dtype
        raise DataError(
            f"{argument} has values of type {kind}, but a mask must have booleans. For indices pass "
            "numpy.isin(numpy.arange(adata.n_obs), indices), and fill in missing values."
        )
    return values.astype(bool)


def _reorder(obs: pd.DataFrame, mask: pd.Series, argument: str, source: str) -> pd.Series:
    """Return the mask in the order of the cells."""
    if mask.index.equals(obs.index):
        return mask
    if len(mask) == len(obs) and mask.index.is_unique and obs.index.is_unique:
        aligned = mask.reindex(obs.index)
        if obs.index.isin(mask.index).all():
            return aligned
    num_missing = int((~obs.index.isin(mask.index)).sum())
    problem = f"lacks {num_missing} of the {len(obs)} cells" if num_missing else "has more cells than those"
    raise DataError(
        f"{argument} is a Series whose index {problem} of {source}. Index it by adata.obs_names, or pass its values in "
        f"the order of the cells: {argument}.to_numpy()."
    )
