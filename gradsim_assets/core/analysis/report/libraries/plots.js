// Of plotly.js what our figures are made of (the core has lines and points): a test holds the list against them.
import bar from "plotly.js/lib/bar";
import box from "plotly.js/lib/box";
import Plotly from "plotly.js/lib/core";
import heatmap from "plotly.js/lib/heatmap";
import histogram from "plotly.js/lib/histogram";

Plotly.register([bar, box, heatmap, histogram]);
globalThis.Plotly = Plotly;
