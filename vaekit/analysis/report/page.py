"""Elements of an HTML page, and the page itself: one file, with figures inside, without scripts."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from vaekit.plotting.figure_files import encode_figure

if TYPE_CHECKING:
    from vaekit.plotting.figure_files import Figure

TEMPLATE = "page.html.jinja"
PIXELS_PER_INCH = 96  # of CSS


@dataclass(frozen=True)
class Paragraph:
    """Text of one paragraph."""

    kind: ClassVar[str] = "paragraph"
    text: str


@dataclass(frozen=True)
class Items:
    """List of texts."""

    kind: ClassVar[str] = "items"
    texts: Sequence[str]


@dataclass(frozen=True)
class Code:
    """Commands or a configuration, to copy."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Facts:
    """Names and values, in two columns."""

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """Table whose first column names the rows.

    Attributes
    ----------
    caption : str
        Caption.
    columns : sequence of str
        Headers.
    rows : sequence of sequences of str
        Cells.
    text_columns : set of int
        Columns with text; the others have numbers and are aligned to the right.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: frozenset[int] = frozenset({0})


@dataclass(frozen=True)
class Key:
    """Color of a category in a figure, its name and its number of observations."""

    color: str
    name: str
    count: int


@dataclass(frozen=True)
class Picture:
    """Figure of matplotlib as a vector graphic, with a text for readers who do not see it."""

    kind: ClassVar[str] = "picture"
    source: str
    width: int
    height: int
    alt: str
    caption: str
    keys: Sequence[Key] = ()

    @classmethod
    def from_figure(cls, figure: Figure, alt: str, caption: str, keys: Sequence[Key] = ()) -> Picture:
        """Embed a figure."""
        content = encode_figure(figure, "svg", outlined=True)
        head = content[: content.index(b">", content.index(b"<svg"))].decode()
        points = [float(re.search(rf'\b{name}="([\d.]+)pt"', head)[1]) for name in ("width", "height")]  # type: ignore[index]
        width, height = (round(value * PIXELS_PER_INCH / 72) for value in points)
        source = f"data:image/svg+xml;base64,{base64.b64encode(content).decode()}"
        return cls(source, width, height, alt, caption, keys)


@dataclass(frozen=True)
class Gallery:
    """Pictures next to each other if there is space."""

    kind: ClassVar[str] = "gallery"
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Fold:
    """Elements that are hidden until a reader opens them."""

    kind: ClassVar[str] = "fold"
    summary: str
    elements: Sequence[Element]


Element = Paragraph | Items | Code | Facts | Table | Picture | Gallery | Fold


@dataclass(frozen=True)
class Section:
    """Part of a page with a heading, to which the contents link."""

    title: str
    elements: Sequence[Element]

    @property
    def anchor(self) -> str:
        """Identifier in the address of the page."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Tile:
    """One number at the top of a page, with its name and an explanation."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes
    ----------
    title, subtitle : str
        Heading, and a sentence below it.
    tiles : sequence of Tile
        The most important numbers.
    sections : sequence of Section
        Contents.
    footer : str
        Last line.
    """

    title: str
    subtitle: str
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    footer: str

    def to_html(self) -> str:
        """Return the page as HTML, with all texts escaped."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        return environment.get_template(TEMPLATE).render(page=self)


def number(value: float, digits: int = 1) -> str:
    """Return a number as text, with a proper minus sign; a dash if it is undefined.

    Examples
    --------
    >>> number(1234.56), number(float("nan")), number(-0.001, 2)
    ('1,234.6', '–', '0.00')
    """
    if not math.isfinite(value):
        return "\N{EN DASH}"
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def percent(fraction: float) -> str:
    r"""Return a fraction in percent as text.

    Examples
    --------
    >>> [percent(x).replace("\N{NO-BREAK SPACE}", " ") for x in (0.256, 0.0004, 0.0)]
    ['26 %', '< 0.1 %', '0 %']
    """
    if 0 < fraction < 0.001:
        return "<\N{NO-BREAK SPACE}0.1\N{NO-BREAK SPACE}%"
    return f"{100 * fraction:.{1 if 0 < fraction < 0.0995 else 0}f}\N{NO-BREAK SPACE}%"


def counted(count: int, noun: str) -> str:
    """Return a number of things as text.

    Examples
    --------
    >>> counted(1, "cell"), counted(2700, "cell"), counted(3, "batch")
    ('1 cell', '2,700 cells', '3 batches')
    """
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith(('ch', 's')) else 's'}"
