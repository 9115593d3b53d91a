"""One palette for all plots, on the page and as files: colours, markers and dashes, and what gets which."""

from dataclasses import dataclass
from typing import Any

from gradsim_assets.core.components import FAMILIES
from gradsim_assets.core.models.controls import BASE, UNTRAINED

#: Okabe and Ito's palette (2008), told apart under every common colour vision deficiency; no yellow on white.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#000000", "#666666"
CYCLE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY)

INK, AXIS, GRID = "#222222", "#444444", "#e6e6e6"

#: How opaque the area of a range is, and the whiskers of an interval.
AREA, WHISKER = 0.16, 0.55

#: By what colours are replaced where the page is dark: ink and paper change places, and what is too dark to see is lightened.
DARKENED = {
    INK: "#e8eaee",
    AXIS: "#a9b1bd",
    GRID: "#2d333c",
    "white": "#14171c",
    BLACK: "#f4f5f7",
    GREY: "#a9b1bd",
    BLUE: "#4aa3df",
    GREEN: "#22c79a",
    f"rgba(0, 0, 0, {WHISKER})": f"rgba(244, 245, 247, {WHISKER})",  # whiskers of what is black
}

# As matplotlib and as plotly call them.
_MARKERS = (
    *(("o", "circle"), ("s", "square"), ("D", "diamond"), ("^", "triangle-up")),
    *(("v", "triangle-down"), ("P", "cross"), ("X", "x"), ("*", "star")),
)
_DASHES: tuple[tuple[Any, str], ...] = (
    *(("-", "solid"), ("--", "dash"), ("-.", "dashdot"), (":", "dot")),
    ((0, (8, 3)), "longdash"),
)


@dataclass(frozen=True)
class Style:
    """How a series is drawn: its colour; marker and dash as matplotlib calls them, symbol and line as plotly does."""

    colour: str
    marker: str
    symbol: str
    dash: Any
    line: str


def style(place: int, family: str = FAMILIES[0]) -> Style:
    """The style of one of many series, such as the component types in model order; families differ by their dashes."""
    turn, colour = divmod(place, len(CYCLE))
    return Style(CYCLE[colour], *_MARKERS[(place + turn) % len(_MARKERS)], *_DASHES[FAMILIES.index(family)])


#: Pairs of a variant with its own original, and with another one.
OWN_STYLE, OTHER_STYLE = style(0), style(1)

#: Colours of a heat map, from low to high, as matplotlib calls them: read the same with and without colour vision.
HEAT = "cividis"

#: How opaque the bars of two histograms are that stand in each other's way.
BARS = 0.6

#: Families of component types, where they and not the types are told apart.
FAMILY_STYLES = {
    family: Style(colour, *marker, *dash)
    for family, colour, marker, dash in zip(
        FAMILIES, (BLUE, VERMILION, GREEN, PURPLE, GREY), _MARKERS, _DASHES, strict=False
    )
}

#: Levels that other figures are read against, in their order.
REFERENCE_STYLES = tuple(Style(GREY, "", "", *dash) for dash in _DASHES[1:])


def point_style(place: int) -> Style:
    """Single points that a curve is compared with, apart from its own markers."""
    return Style(BLACK, *_MARKERS[2 + place % 4], *_DASHES[0])


def method_colour(method: str) -> str:
    """Methods that look at the model's gradients stand out against those that do not."""
    others = ("bm25", "chance", "text_overlap", "representation", "random", UNTRAINED, BASE)
    return GREY if method in others else BLUE
