"""Colors of categories: the user's own, or a fixed list that people with red-green deficient vision can use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

MISSING, MISSING_COLOR = "missing", "lightgray"  # name and color of points without a value
SEQUENTIAL = "viridis"  # increases in lightness, so that it also works in gray
NO_COLORS: Mapping[str, str] = MappingProxyType({})
# Okabe and Ito (2008), Color Universal Design, without black and yellow, which are hard to see next to text and on
# white. Each further color has the largest smallest distance to the earlier ones, to white and to light gray, in normal
# vision and 1.6 times in protanopia and deuteranopia (Machado et al. 2009), in OKLab with a lightness of .36 to .86.
PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#78003C", "#3C00A5", "#C31EFF", "#784B00",
    "#78F078", "#B41E78", "#78C396", "#7800D2", "#9687FF", "#FF4B69", "#4B2D69", "#00694B", "#FF78D2", "#4B4BA5",
    "#E1D200", "#E10FC3", "#FF9678", "#A5C3FF", "#4B3C00", "#0000FF", "#F0A5C3", "#C30F3C", "#871E87", "#6978D2",
    "#0F961E", "#695A87", "#A56996", "#96E1A5", "#69C34B", "#693C5A", "#B44B69", "#5A0087", "#A54BA5", "#B4784B",
    "#962DE1", "#78E1FF", "#0000C3", "#782D2D", "#1EA5B4", "#D24BE1", "#B4962D", "#C37878", "#FF2DFF", "#5A692D",
    "#C378D2", "#D296FF", "#E13C96", "#00F03C", "#C39696", "#D2B4E1", "#E1005A", "#003CB4", "#00D2B4", "#690F5A",
    "#96A5D2", "#B4D278", "#870000", "#C3C31E", "#1EC378", "#2D784B", "#783CC3", "#A54B00", "#FF5AB4", "#961E69",
    "#875AD2", "#4B5A2D", "#008787", "#1E5A96", "#00F0E1", "#004B87", "#871E4B", "#963C69", "#96D25A", "#FF96A5",
    "#A55AC3", "#3CA5E1", "#8778F0", "#9600FF", "#004B1E", "#0F4B4B", "#5AD287", "#B40096", "#F0964B", "#96964B",
    "#691E78", "#A56978", "#2DD2E1", "#2D3C78", "#FF2D0F", "#F05A96",
)  # fmt: skip


def category_colors(categories: Sequence[Any], chosen: Mapping[str, str] = NO_COLORS) -> list[str]:
    """Return one color per category: the chosen one, or else that of its position in a fixed list of 96 colors.

    Categories that do not occur count, too. So a category has the same color in all figures that list the same
    categories in the same order, whichever of them occur.

    Parameters
    ----------
    categories : sequence
        Categories in order.
    chosen : Mapping[str, str]
        Colors by category, such as those of ``adata.uns["KEY_colors"]``. Values that matplotlib does not know as
        colors are ignored.

    Examples
    --------
    >>> category_colors(["B", "T", "NK"], {"T": "red"})
    ['#0072B2', 'red', '#009E73']
    """
    from matplotlib.colors import is_color_like

    own = [chosen.get(str(name)) for name in categories]
    return [
        color if color is not None and is_color_like(color) else PALETTE[place % len(PALETTE)]
        for place, color in enumerate(own)
    ]
