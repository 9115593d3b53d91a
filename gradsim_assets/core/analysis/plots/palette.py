"""One palette for all plots."""

from gradsim_assets.core.components import FAMILIES

#: Okabe and Ito's palette (2008), told apart under every common colour vision deficiency; no yellow on white.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#000000", "#666666"
CYCLE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY)
FAMILY_COLOURS = dict(zip(FAMILIES, (BLUE, VERMILION, GREEN, PURPLE, GREY), strict=True))
