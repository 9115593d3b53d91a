"use strict";
// Margins of all samples, as a histogram and against those of the chosen component: what is brushed in either is what the list shows.
const Brushing = (() => {
  const BINS = 30;
  const ROUND = 1e4; // margins are shown, and given, to four digits
  let given = null, range = null, points = null, place = null;

  const field = (name) => document.getElementById(`margin-${name}`);
  const number = (name) => (field(name).value.trim() === "" ? null : Number(field(name).value));

  // Whether a sample is in what was brushed; one without a margin is in no range.
  const passes = (i) => {
    if (points && !points.has(i)) return false;
    if (!range) return true;
    const margin = given.margins()[i];
    return margin !== null && (range[0] === null || margin >= range[0]) && (range[1] === null || margin <= range[1]);
  };

  const tell = () => {
    field("clear").hidden = !range && !points;
    given.changed();
  };
  const chooseRange = (low, high) => {
    range = low === null && high === null ? null : [low, high];
    points = null;
    tell();
  };
  const forget = () => {
    range = points = null;
    field("low").value = field("high").value = "";
    field("clear").hidden = true;
  };
  const clear = () => {
    forget();
    for (const name of ["histogram", "plane"]) Plotly.restyle(field(name), { selectedpoints: [null] }).then(() => Plotly.relayout(field(name), { selections: [] }));
    tell();
  };

  const layout = (title, up) => {
    const { layout: base, axis, touch } = given;
    return { ...base(230), xaxis: axis(title), yaxis: axis(up), dragmode: touch ? false : "select", barmode: "stack", bargap: 0.05, margin: { l: 55, r: 10, t: 8, b: 40 } };
  };

  const drawHistogram = () => {
    const margins = given.margins(), known = margins.filter((one) => one !== null);
    if (!known.length) return;
    const low = Math.min(0, ...known), high = Math.max(0, ...known), size = (high - low || 1) / BINS;
    // One bin ends at 0, so that right and wrong decisions never share one.
    const bins = { start: Math.floor(low / size) * size, end: Math.ceil(high / size) * size + size, size };
    const trace = (name, colour, which) => ({
      type: "histogram", x: margins.filter((one) => one !== null && which(one)), xbins: bins, autobinx: false, name, marker: { color: colour },
      hovertemplate: `%{y} with a margin of %{x}<extra>${name}</extra>`,
    });
    const [right, wrong] = given.colours;
    given.show(field("histogram"), [trace("right", right, (one) => one > 0), trace("wrong", wrong, (one) => one <= 0)],
      { ...layout(given.words.full, "samples"), selectdirection: "h" });
  };

  const drawPlane = () => {
    const across = given.margins(), up = given.margins(given.component());
    const shown = across.map((_, i) => i).filter((i) => across[i] !== null && up[i] !== null);
    const [right, wrong] = given.colours;
    const trace = (name, colour, symbol, which) => {
      const part = shown.filter((i) => which(across[i]));
      return {
        type: "scatter", mode: "markers", name, marker: { color: colour, symbol, size: 6, opacity: 0.75 }, customdata: part,
        x: part.map((i) => across[i]), y: part.map((i) => up[i]), text: part.map((i) => given.name(i)), hovertemplate: "%{text}<br>%{x:.4f}, %{y:.4f}<extra></extra>",
      };
    };
    given.show(field("plane"), [trace("right", right, "circle", (one) => one > 0), trace("wrong", wrong, "x", (one) => one <= 0)],
      layout(given.words.full, given.words.chosen));
  };

  // Draws what has changed: everything for another setting, the plane alone for another component.
  const draw = () => {
    if (!window.Plotly) return;
    const now = given.setting();
    if (place !== now) drawHistogram();
    place = now;
    drawPlane();
    for (const name of ["histogram", "plane"]) if (!field(name).dataset.brushed) follow(field(name), name);
  };
  // Other colours: all of it again.
  const again = () => { place = null; draw(); };

  const follow = (node, name) => {
    if (!node.on) return;
    node.dataset.brushed = "yes";
    node.on("plotly_selected", (event) => {
      if (!event) return;
      if (name === "plane") {
        if (!event.points.length) return;
        forget();
        points = new Set(event.points.map((point) => point.customdata));
        tell();
      } else if (event.range) {
        const [low, high] = event.range.x.map((one) => Math.round(one * ROUND) / ROUND);
        [field("low").value, field("high").value] = [low, high];
        chooseRange(low, high);
      }
    });
    node.on("plotly_deselect", clear);
    if (name === "plane") node.on("plotly_click", (event) => given.open(event.points[0].customdata));
  };

  // `of` says what is shown: margins of all samples by component, words, colours, and what to do where something was brushed.
  const start = (of) => {
    given = of;
    for (const name of ["low", "high"]) field(name).addEventListener("change", () => chooseRange(number("low"), number("high")));
    field("clear").addEventListener("click", clear);
  };

  return { start, draw, again, passes, forget };
})();
