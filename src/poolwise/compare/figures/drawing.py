"""What all figures share: the size, the style, how conditions are told apart, and the SVG."""

import hashlib
import io
import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib.style
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from numpy import ndarray

WIDTH = 608 / 96
"""Inches; the report shows a figure 38 rem wide, 608 pixels of 1/96 inch, so that a point here is a point there."""
TEXT_SIZE, SMALL_SIZE, CELL_SIZE = 10.0, 9.0, 8.5
"""Points; of titles and labels of rows, of ticks and legends, and of numbers in cells."""
LEGEND_LINE = 0.19
"""Inches that a line of a legend takes."""
CHARACTER = 0.62
"""Width of a character of DejaVu Sans over its size: the mean over names such as `cls_linear`, rounded up."""
LABEL_CHARACTERS = 24
"""Labels of rows are wrapped beyond it; `pooler (never trained)` has 22 characters."""

INK, PALE, GRID = "#1a1a1a", "#7a7a7a", "#dddddd"
SHADES = "Blues"
"""Darker is more, in grey too. Nearly white at its low end, so that most cells of a confusion matrix stay quiet."""

STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    # Nearly as wide as each other, so that text measured in the first is not longer where a reader lacks it.
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": SMALL_SIZE,
    "axes.titlesize": TEXT_SIZE,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": PALE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "text.parse_math": False,  # labels are names, of which some hold a dollar sign
    "svg.fonttype": "none",  # text that can be searched, read aloud, and shown in scripts that DejaVu lacks
    "svg.hashsalt": "poolwise",
}

FINE_NUMBER = re.compile(r"\d+\.\d{3,}")
"""Of a path or a mark, in points: finer than can be seen, and half of a figure's bytes."""

MARKS = re.compile(r"(?P<group><g\b[^>]*)>(?P<uses>\s*(?:<use\b[^>]*/>\s*)+)</g>")

COLOURS = ["#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#000000"]
"""Okabe and Ito 2008, less the yellow, which is too pale on white."""
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "d", "h"]
LINES: list[Any] = ["-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1))]


@dataclass(frozen=True)
class Look:
    """How the marks and lines of one condition look."""

    colour: str
    marker: str
    line: Any

    def sample(self, label: str) -> Line2D:
        """Its entry in a legend."""
        return Line2D([], [], color=self.colour, marker=self.marker, linestyle=self.line, label=label)


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name, in the order in which they first come; of nine, no two have the same marker."""
    return {
        name: Look(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], LINES[place % len(LINES)])
        for place, name in enumerate(dict.fromkeys(names))
    }


@contextmanager
def styled() -> Iterator[None]:
    """The style of all figures, whatever the settings of the person who runs it."""
    with warnings.catch_warnings(), matplotlib.style.context(["default", STYLE]):
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the reader's browser has it
        yield


def new_figure(height: float) -> Any:
    """An empty figure of the common width, `height` inches high."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def svg(figure: Any, title: str) -> str:
    """The figure as an `<svg>` element, with a title for those who cannot see it.

    Its ids are its own, so that a page can hold several. The first tag is the element's, as a page wants it; a file of
    it is whole too.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata=dict.fromkeys(["Date", "Creator", "Format", "Type"]))
    text = stream.getvalue()
    text = text[text.index("<svg ") :]
    text = re.sub(r"<(?:path|use)\b[^>]*>", lambda tag: FINE_NUMBER.sub(_rounded, tag[0]), text)
    text = MARKS.sub(_styled_once, text)
    name = f"figure-{hashlib.sha256((title + text).encode()).hexdigest()[:10]}"
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", text)
    # Text that is wider in the reader's font may reach beyond the edge.
    opening = f'<svg role="img" aria-labelledby="{name}-title" overflow="visible" '
    return text.replace("<svg ", opening, 1).replace(">", f'><title id="{name}-title">{escape(title)}</title>', 1)


def _styled_once(marks: re.Match[str]) -> str:
    """Marks that all look alike have their style from their group, once."""
    styles = set(re.findall(r' style="[^"]*"', marks["uses"]))
    if len(styles) != 1 or "style=" in marks["group"]:
        return marks[0]
    style = styles.pop()
    return f"{marks['group']}{style}>{marks['uses'].replace(style, '')}</g>"


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def nothing_to_show(title: str) -> str:
    """A figure for no data, which says so."""
    figure = new_figure(0.5)
    figure.text(0.5, 0.5, "nothing to show", ha="center", va="center", color=PALE)
    return svg(figure, title)


def wrapped(text: str, room: float, size: float = TEXT_SIZE) -> str:
    """Text in lines of about `room` points."""
    return textwrap.fill(text, max(int(room / (CHARACTER * size)), 8))


def label_of_row(text: str) -> str:
    """A row's label, in lines if it is long."""
    return textwrap.fill(text, LABEL_CHARACTERS)


def width_of(text: str, size: float) -> float:
    """Points that the widest line of a text takes."""
    font = FontProperties(size=size)
    return max(float(text_to_path.get_text_width_height_descent(line, font, False)[0]) for line in text.split("\n"))


def legend_above(figure: Any, samples: Sequence[Line2D]) -> None:
    """A legend over the whole width, in as many columns as fit; the figure becomes higher by it."""
    beside = 6 * SMALL_SIZE  # a sample, and the gap to the next column
    labels = [wrapped(str(sample.get_label()), 72 * WIDTH - beside, SMALL_SIZE) for sample in samples]
    columns = int(72 * WIDTH / (max(width_of(label, SMALL_SIZE) for label in labels) + beside))
    columns = max(min(columns, len(samples)), 1)
    lines = -(-len(samples) // columns) * max(label.count("\n") + 1 for label in labels)
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * lines)
    figure.legend(samples, labels, loc="outside upper left", ncols=columns)


def panels_in(figure: Any, count: int, columns: int, **shared: Any) -> list[Any]:
    """Axes for `count` panels, row by row."""
    grid = figure.subplots(-(-count // columns), columns, squeeze=False, **shared).flat
    for unused in grid[count:]:
        unused.remove()
    return list(grid[:count])


def limits(values: Iterable[Float[ndarray, "..."]], least: float) -> tuple[float, float]:
    """An axis's ends around all finite values, at least `least` apart; 0 and `least` where there are none."""
    known = np.concatenate([np.ravel(some) for some in values] or [np.empty(0)])
    known = known[np.isfinite(known)]
    if len(known) == 0:
        return 0.0, least
    low, high = float(known.min()), float(known.max())
    beyond = max(0.05 * (high - low), (least - (high - low)) / 2)
    return low - beyond, high + beyond


def text_colour(shade: tuple[float, ...]) -> str:
    """Black or white, whichever is easier to read on the shade (red, green and blue from 0 to 1).

    They are equally easy at a relative luminance of sqrt(1.05 * 0.05) - 0.05 (contrast ratio of WCAG 2.2).
    """
    channels = np.array(shade[:3])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ [0.2126, 0.7152, 0.0722] > 0.179 else "white"
