"use strict";
// Plots: drawn when they come into view or are printed, in the colours of the page, and saved as pictures or numbers.
const Figures = (() => {
  const CONFIG = { responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: false };
  const DARK = window.matchMedia("screen and (prefers-color-scheme: dark)");
  // A column of a two-column paper is 3.3 inches wide; pictures of points have 300 of them an inch.
  const COLUMN = 3.3 * 96, DENSITY = 300 / 96;
  let sources = null, colours = {}, onPaper = false, onDrawn = () => {};

  const deep = (value, change) => {
    if (typeof value === "string") return change(value);
    if (Array.isArray(value)) return value.map((one) => deep(one, change));
    if (value && typeof value === "object" && !ArrayBuffer.isView(value)) {
      return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, deep(one, change)]));
    }
    return value;
  };

  // Plots are made for white paper; on a dark page what is ink there is light, whatever its place in the figure.
  const coloured = (figure) => (DARK.matches && !onPaper ? deep(figure, (text) => colours[text] ?? text) : figure);

  const source = (node) => sources[node.dataset.figure];

  const draw = async (node) => {
    const figure = coloured(source(node)), first = !node.dataset.drawn;
    await Plotly.react(node, figure.data, figure.layout, CONFIG);
    node.style.minHeight = "";
    node.dataset.drawn = "yes";
    if (first) onDrawn(node);
  };

  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      draw(target);
    }
  }, { rootMargin: "600px" });

  const all = () => [...document.querySelectorAll("[data-figure]")];

  const save = (name, content, type) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  // The picture is of paper, also where the page is dark: a copy is drawn out of sight.
  const picture = async (node, format) => {
    const figure = source(node), width = node.clientWidth || 700, height = figure.layout.height ?? 450;
    const copy = document.createElement("div");
    const options = { format, width, height, scale: format === "png" ? (COLUMN * DENSITY) / Math.min(width, COLUMN) : 1 };
    await Plotly.newPlot(copy, figure.data, { ...figure.layout, width, height }, { staticPlot: true });
    await Plotly.downloadImage(copy, { ...options, filename: node.dataset.name });
    Plotly.purge(copy);
  };

  const listed = (value) => (value === undefined || value === null ? [] : Array.isArray(value) || ArrayBuffer.isView(value) ? [...value] : [value]);

  // Labels of bars repeat their figure in bold, and some names are broken into lines.
  const plain = (value) => String(value).replace(/<b>.*?<\/b>/g, "").replace(/<[^>]*>/g, " ").trim();

  // A row a point: the trace's name, its place, its interval, and the component or pair that it stands for.
  const numbers = (node) => {
    const lines = [["series", "x", "y", "value", "low", "high", "of"]];
    for (const trace of node._fullData ?? []) {
      const x = listed(trace.x), y = listed(trace.y), of = listed(trace.customdata);
      if (trace.type === "heatmap") {
        trace.z.forEach((row, i) => row.forEach((value, j) => lines.push([trace.name, x[j] ?? j, y[i] ?? i, value ?? "", "", "", of[i]?.[j] ?? ""])));
        continue;
      }
      const flat = trace.orientation === "h", error = flat ? trace.error_x : trace.error_y, along = flat ? x : y;
      const more = listed(error?.array), less = listed(error?.arrayminus ?? error?.array);
      for (let i = 0; i < Math.max(x.length, y.length); i++) {
        const value = along[i], known = typeof value === "number" && more[i] !== undefined;
        lines.push([trace.name ?? "", x[i] ?? "", y[i] ?? "", value ?? "", known ? value - less[i] : "", known ? value + more[i] : "", of[i] ?? ""]);
      }
    }
    return Tables.csv(lines.map((line) => line.map(plain)));
  };

  const buttons = (node) => {
    const row = document.createElement("p");
    row.className = "copies";
    const add = (label, title, act) => {
      const button = Object.assign(document.createElement("button"), { type: "button", className: "small", textContent: label, title });
      button.addEventListener("click", async () => { if (!node.dataset.drawn) await draw(node); await act(); });
      row.append(button);
    };
    add("PNG", "Save as a picture, 300 points an inch at a paper's column width", () => picture(node, "png"));
    add("SVG", "Save as a vector picture", () => picture(node, "svg"));
    add("CSV", "Save the numbers behind the plot", () => save(`${node.dataset.name}.csv`, numbers(node), "text/csv"));
    node.after(row);
  };

  // `darkened` says by what a colour is replaced on a dark page, `drawn` is told of every figure, `again` of other colours.
  const start = async (darkened, drawn, again) => {
    colours = darkened;
    onDrawn = drawn;
    [sources] = await Promise.all([Packed.json("figures-data"), Packed.run("plots")]);
    for (const node of all()) { buttons(node); watcher.observe(node); }
    DARK.addEventListener("change", () => { all().filter((node) => node.dataset.drawn).forEach(draw); again(); });
    for (const [kind, paper] of [["beforeprint", true], ["afterprint", false]]) {
      window.addEventListener(kind, () => { onPaper = paper; all().forEach(draw); again(); });
    }
  };

  return { start, coloured, CONFIG };
})();
