"use strict";
// Plots: drawn when they come into view or are printed, in the colours of the page, and saved as pictures or numbers.
const Figures = (() => {
  const CONFIG = { responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: false };
  const DARK = window.matchMedia("screen and (prefers-color-scheme: dark)");
  // A column of a two-column paper is 3.3 inches wide; pictures of points have 300 of them an inch.
  const COLUMN = 3.3 * 96, DENSITY = 300 / 96, POINT = 72 / 96;
  const SHEET = 660; // pixels between the margins of A4 or Letter
  const LETTERS = 10; // 7.5 points
  const LEAST = 200; // pixels of height, which the title of a scale needs
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

  // A sheet is narrower than most screens, and pictures do not shrink with it.
  const put = async (node, data, layout) => {
    await Plotly.react(node, data, onPaper ? { ...layout, width: SHEET } : layout, CONFIG);
    if (!onPaper && node.dataset.paper) await Plotly.Plots.resize(node); // as wide as its place on the screen again
    node.dataset.paper = onPaper ? "yes" : "";
  };

  const given = new Map(); // figures that the page makes itself, by node
  const source = (node) => given.get(node) ?? sources[node.dataset.figure];

  // Draws a figure that the page makes itself; it is saved as all others are.
  const show = (node, data, layout) => {
    given.set(node, { data, layout });
    node.style.minHeight = "";
    return put(node, coloured(data), coloured(layout));
  };

  const draw = async (node) => {
    const figure = coloured(source(node)), first = !node.dataset.drawn;
    await put(node, figure.data, figure.layout);
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

  // The picture is of paper, also where the page is dark: a copy is drawn out of sight, as wide as a column and with its letters
  // and marks as large as they are printed there.
  const scaled = ({ data, layout }, shrunk) => {
    const smaller = (value, most) => (typeof value === "number" ? Math.min(value, most) : value);
    const small = {
      ...layout, width: COLUMN, height: Math.max(LEAST, Math.round((layout.height ?? 450) * shrunk)), autosize: false, margin: { l: 44, r: 8, t: 8, b: 36 },
      font: { ...layout.font, size: LETTERS, family: "Helvetica, Arial, sans-serif" }, legend: { ...layout.legend, font: { size: LETTERS - 1 } },
    };
    for (const name of Object.keys(layout).filter((one) => /^[xy]axis\d*$/.test(one))) {
      small[name] = { ...layout[name], title: { ...layout[name].title, font: { size: LETTERS }, standoff: 4 } };
    }
    const traces = data.map((trace) => ({
      ...trace,
      ...(trace.marker?.size && { marker: { ...trace.marker, size: smaller(trace.marker.size, 4.5) } }),
      ...(trace.colorbar && { colorbar: { ...trace.colorbar, title: { ...trace.colorbar.title, font: { size: LETTERS - 1 } } } }),
      ...(trace.line?.width && { line: { ...trace.line, width: smaller(trace.line.width, 1.2) } }),
    }));
    return { data: traces, layout: small };
  };

  // Signs that the letters of PDF's own fonts lack.
  const printable = (svg) => svg.replaceAll("\u2212", "\u2013").replaceAll("ρ", "rho").replaceAll("\u00a0", " ");

  const asPdf = async (svg, width, height) => {
    await Packed.run("paper");
    const { jsPDF, svg2pdf } = globalThis.PaperLibraries;
    const size = [width * POINT, height * POINT];
    const page = new jsPDF({ unit: "pt", format: size, orientation: width > height ? "landscape" : "portrait", compress: true });
    const drawn = new DOMParser().parseFromString(printable(svg), "image/svg+xml").documentElement;
    document.body.append(drawn); // it is measured where it is shown
    try {
      await svg2pdf(drawn, page, { x: 0, y: 0, width: size[0], height: size[1] });
    } finally {
      drawn.remove();
    }
    return page.output("arraybuffer");
  };

  const picture = async (node, format) => {
    const figure = source(node), copy = document.createElement("div");
    const { data, layout } = scaled(figure, Math.max(0.6, COLUMN / (node.clientWidth || COLUMN)));
    await Plotly.newPlot(copy, data, layout, { staticPlot: true });
    const vector = format !== "png", { width, height } = layout;
    const address = await Plotly.toImage(copy, { format: vector ? "svg" : "png", width, height, scale: vector ? 1 : DENSITY });
    Plotly.purge(copy);
    const name = `${node.dataset.name}.${format}`;
    if (!vector) return save(name, Uint8Array.from(atob(address.split(",")[1]), (sign) => sign.charCodeAt(0)), "image/png");
    const svg = decodeURIComponent(address.slice(address.indexOf(",") + 1));
    return format === "svg" ? save(name, svg, "image/svg+xml") : save(name, await asPdf(svg, width, height), "application/pdf");
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
      button.addEventListener("click", async () => { if (node.dataset.figure && !node.dataset.drawn) await draw(node); await act(); });
      row.append(button);
    };
    add("PNG", "Save as a picture of a paper's column width (3.3 inches), 300 points an inch", () => picture(node, "png"));
    add("SVG", "Save as a vector picture of a paper's column width", () => picture(node, "svg"));
    add("PDF", "Save as a vector picture of a paper's column width, for LaTeX", () => picture(node, "pdf"));
    add("CSV", "Save the numbers behind the plot", () => save(`${node.dataset.name}.csv`, numbers(node), "text/csv"));
    node.after(row);
  };

  // `darkened` says by what a colour is replaced on a dark page, `drawn` is told of every figure, `again` of other colours.
  const start = async (darkened, drawn, again) => {
    colours = darkened;
    onDrawn = drawn;
    [sources] = await Promise.all([Packed.json("figures-data"), Packed.run("plots")]);
    document.querySelectorAll("[data-name]").forEach(buttons);
    for (const node of all()) watcher.observe(node);
    DARK.addEventListener("change", () => { all().filter((node) => node.dataset.drawn).forEach(draw); again(); });
    for (const [kind, paper] of [["beforeprint", true], ["afterprint", false]]) {
      window.addEventListener(kind, () => { onPaper = paper; all().forEach(draw); again(); });
    }
  };

  return { start, show };
})();
