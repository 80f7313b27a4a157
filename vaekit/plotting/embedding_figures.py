"""UMAPs of latents, colored by categories and numbers, with their topics."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit._core.threads import keep_threads
from vaekit.plotting.blocks import Block, PanelBlock, stack_blocks
from vaekit.plotting.color_keys import ColorKey, PlainKey, color_key
from vaekit.plotting.palettes import NO_COLORS
from vaekit.plotting.points import sample_points
from vaekit.plotting.topic_figures import TopicBlock

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

NO_UNITS: Mapping[str, str] = MappingProxyType({})
NO_PALETTES: Mapping[str, Mapping[str, str]] = MappingProxyType({})
NO_TOPICS: Mapping[str, np.ndarray] = MappingProxyType({})
NUM_REMEMBERED = 4  # UMAPs
MIN_POINTS = 4  # of UMAP and of Leiden clusters
_remembered: dict[tuple[str, int], np.ndarray] = {}  # UMAPs by the hash of their points, and the seed


def plot_latents(
    latents: np.ndarray,
    columns: Mapping[str, pd.Categorical | np.ndarray],
    title: str = "",
    palettes: Mapping[str, Mapping[str, str]] = NO_PALETTES,
    units: Mapping[str, str] = NO_UNITS,
    topics: Mapping[str, np.ndarray] = NO_TOPICS,
    groups: pd.Categorical | None = None,
) -> Figure:
    """Plot the UMAP of latents, one panel per column, and the topics.

    The UMAP of more than 20,000 observations would take minutes, so that a random subset of this size is shown. It
    contains observations of every category (:func:`~vaekit.plotting.points.sample_points`).

    Parameters
    ----------
    latents : array, shape (observations, dimensions)
        Coordinates in latent space.
    columns : Mapping[str, pandas.Categorical or array]
        As in :func:`plot_embedding`, for all observations.
    title : str
        Beginning of the title, such as the name of the data; the title also states the number of observations.
    palettes, units
        As in :func:`plot_embedding`.
    topics : Mapping[str, array], each of shape (observations, topics)
        Proportions of the topics of each Dirichlet latent.
    groups : pandas.Categorical or None
        Groups of the bars of topics; None means Leiden clusters of the latents.

    Examples
    --------
    >>> import vaekit
    >>> _ = vaekit.analysis.embed(adata, model)
    >>> columns = {"code y": adata.obs["vaekit_y"].array}
    >>> figure = vaekit.plotting.plot_latents(adata.obsm["X_vaekit"], columns)  # doctest: +SKIP
    """
    index = sample_points(len(latents), categorical_columns(columns))
    points = latents[index]
    coordinates = umap_coordinates(points)
    subset = {name: values[index] for name, values in columns.items()}
    blocks: list[Block] = [column_panels(coordinates, subset, palettes, units)]
    clusters = leiden_clusters(points) if topics and groups is None else groups
    for name, proportions in topics.items():
        if groups is None:
            blocks.append(TopicBlock(proportions[index], clusters, coordinates, name))
        else:
            blocks.append(TopicBlock(proportions, groups, coordinates, name, index))
    return stack_blocks(blocks, f"{title}: " * bool(title) + umap_title(len(index), len(latents)))


def plot_embedding(
    coordinates: np.ndarray,
    columns: Mapping[str, pd.Categorical | np.ndarray],
    title: str = "",
    palettes: Mapping[str, Mapping[str, str]] = NO_PALETTES,
    units: Mapping[str, str] = NO_UNITS,
) -> Figure:
    """Plot the same points in several panels, each colored by another column.

    The points of all categories are drawn in one random order, so that none of them covers the others. They are pixels
    in PDF and SVG files, too.

    Parameters
    ----------
    coordinates : array, shape (points, 2)
        UMAP coordinates.
    columns : Mapping[str, pandas.Categorical or array of numbers]
        Values of the points, by the title of the panel, such as "batch", "label" and "code y". Categories have a
        legend in their order and the colors of their positions, so that a categorical with unused categories keeps
        its colors. Numbers have a color bar. Points without a value are gray. An empty mapping gives one gray panel.
    title : str
        Title of the figure.
    palettes : Mapping[str, Mapping[str, str]]
        Colors of categories by the title of the panel, instead of those of their positions.
    units : Mapping[str, str]
        Units of numbers by the title of the panel, for the color bars.

    Examples
    --------
    >>> import numpy as np, vaekit
    >>> columns = {"cluster": adata.obs["cluster"].array, "batch": adata.obs["batch"].array}
    >>> points = np.random.default_rng(0).normal(size=(adata.n_obs, 2))
    >>> figure = vaekit.plotting.plot_embedding(points, columns, "random points")
    >>> len(figure.axes)
    2
    """
    return stack_blocks([column_panels(coordinates, columns, palettes, units)], title)


def column_panels(
    coordinates: np.ndarray,
    columns: Mapping[str, pd.Categorical | np.ndarray],
    palettes: Mapping[str, Mapping[str, str]] = NO_PALETTES,
    units: Mapping[str, str] = NO_UNITS,
) -> PanelBlock:
    """Return the panels of some columns, or a gray one without any."""
    return PanelBlock(coordinates, column_keys(columns, palettes, units) or {"": PlainKey()})


def column_keys(
    columns: Mapping[str, pd.Categorical | np.ndarray],
    palettes: Mapping[str, Mapping[str, str]] = NO_PALETTES,
    units: Mapping[str, str] = NO_UNITS,
) -> dict[str, ColorKey]:
    """Return the colors of the points by each column."""
    return {
        name: color_key(values, units.get(name, ""), palettes.get(name, NO_COLORS)) for name, values in columns.items()
    }


def categorical_columns(columns: Mapping[str, pd.Categorical | np.ndarray]) -> list[pd.Categorical]:
    """Return the columns that have categories."""
    import pandas as pd

    return [values for values in columns.values() if isinstance(values, pd.Categorical)]


def umap_title(count: int, total: int) -> str:
    """Return the title of a UMAP of ``count`` observations out of ``total``.

    Examples
    --------
    >>> umap_title(20_000, 100_000)
    'UMAP of the latents, 20,000 of 100,000 observations'
    """
    return f"UMAP of the latents, {f'all {total:,}' if count == total else f'{count:,} of {total:,}'} observations"


def umap_coordinates(points: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return UMAP coordinates ``[points, 2]`` of ``[points, dimensions]``, computed by scanpy.

    They depend on the points and the seed only. Fewer than four points keep their first two coordinates. The last
    results are kept, so that several figures of the same points compute them once.
    """
    import scanpy as sc

    points = np.ascontiguousarray(points, dtype=np.float32)
    if len(points) < MIN_POINTS:
        return np.pad(points[:, :2], [(0, 0), (0, max(0, 2 - points.shape[1]))])
    key = hashlib.sha256(points.tobytes()).hexdigest(), seed
    if key not in _remembered:
        cells = _neighbors(points, seed)
        sc.tl.umap(cells, random_state=seed)
        while len(_remembered) >= NUM_REMEMBERED:
            _remembered.pop(next(iter(_remembered)))
        _remembered[key] = np.asarray(cells.obsm["X_umap"])
    return _remembered[key].copy()


def leiden_clusters(points: np.ndarray, seed: int = 0) -> pd.Categorical:
    """Return Leiden clusters of ``[points, dimensions]`` at resolution 1, computed by scanpy."""
    import pandas as pd
    import scanpy as sc

    if len(points) < MIN_POINTS:
        return pd.Categorical(["0"] * len(points))
    cells = _neighbors(np.asarray(points, dtype=np.float32), seed)
    sc.tl.leiden(cells, flavor="igraph", n_iterations=2, directed=False, random_state=seed)
    return cells.obs["leiden"].array


def _neighbors(points: np.ndarray, seed: int) -> Any:
    """Return an AnnData with scanpy's neighbor graph of points."""
    import anndata
    import scanpy as sc

    keep_threads()
    cells = anndata.AnnData(points)
    # scanpy requires more points than neighbors. Exact neighbors take seconds at this size; pynndescent, the default of
    # scanpy for more than 8,192 points, fails from its release 0.7 on.
    neighbors = max(2, min(15, len(points) - 1))
    sc.pp.neighbors(cells, n_neighbors=neighbors, use_rep="X", transformer="sklearn", random_state=seed)
    return cells
