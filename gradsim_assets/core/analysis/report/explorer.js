"use strict";
// Runs the sample explorer at once; the plotting library is run after the first paint, and figures when they come into view.
(async () => {
  const $ = (id) => document.getElementById(id);
  const [DATA, TEXTS] = await Promise.all(["explorer-data", "texts-data"].map(Packed.json));
  const STYLE = DATA.style; // colours, symbols and words of all plots
  const PAGE = 200; // samples listed at a time
  const NONE = -32768, SCALE = 32767;

  // ---- figures -------------------------------------------------------------------------------------------------
  const followClicks = (node) => node.on("plotly_click", (event) => {
    const name = event.points[0].customdata;
    if (Array.isArray(name)) return openPair(node.dataset.setting, ...name);
    const place = typeof name === "string" ? names(node.dataset.setting).indexOf(name) : -1;
    if (place < 0) return;
    if (state.setting !== node.dataset.setting) openSetting(node.dataset.setting);
    chooseComponent(place);
    $("explorer").scrollIntoView();
  });

  // ---- data ----------------------------------------------------------------------------------------------------
  const { unpack } = Tokens;
  const open = {};
  const load = (setting) => (open[setting] ??= opened(DATA.settings[setting], setting));
  const opened = (raw, setting) => {
    const names = [...raw.components.map((c) => c.component), "full_gradient"];
    return {
      ...raw,
      names,
      width: names.length,
      original: unpack(raw.original, Uint32Array),
      bm25Rank: unpack(raw.bm25_rank, Uint32Array),
      bm25Score: raw.bm25_score === null ? null : unpack(raw.bm25_score, Float32Array),
      similarity: unpack(raw.similarity, Int16Array),
      ranks: unpack(raw.ranks, Uint32Array),
      texts: TEXTS.variants[setting],
      lower: null,
    };
  };
  const names = (setting) => load(setting).names;
  const state = { setting: null, component: 0, sample: -1, candidate: -1, listed: [], limit: PAGE };
  const data = () => open[state.setting];
  const cosine = (pair, component) => {
    const value = data().similarity[pair * data().width + component];
    return value === NONE ? null : value / SCALE;
  };
  const rank = (sample, component) => data().ranks[sample * data().width + component];
  const full = () => data().width - 1;
  // Whether the reader did something on this page; what browsers know of it they take along from page to page.
  let touched = false;
  for (const kind of ["pointerdown", "keydown"]) document.addEventListener(kind, () => { touched = true; }, { capture: true });
  const shown = (value) => (value === null || value === undefined ? "–" : value.toFixed(4));
  const pairsOf = (sample) => {
    const result = [];
    for (let pair = data().starts[sample]; pair < data().starts[sample + 1]; pair++) result.push(pair);
    return result;
  };
  const originalOf = (pair) => data().originals[data().original[pair]];
  // What a sample's own original has more, under a component, than the best of the others on this page; null where either is missing.
  const margin = (sample, component = full()) => {
    const own = ownPair(sample);
    if (own === undefined) return null;
    const rivals = pairsOf(sample).filter((pair) => pair !== own).map((pair) => cosine(pair, component)).filter((value) => value !== null);
    const value = cosine(own, component);
    return value === null || !rivals.length ? null : value - Math.max(...rivals);
  };
  const margins = (component = full()) => {
    const known = (data().margins ??= {});
    return (known[component] ??= data().variants.map((_, i) => margin(i, component)));
  };
  // The tenth of the samples whose decision hangs on least.
  const closest = () => {
    const here = data();
    here.closest ??= new Set(here.variants.map((_, i) => [Math.abs(margin(i) ?? Infinity), i]).sort(([a], [b]) => a - b)
      .slice(0, Math.ceil(here.variants.length / 10)).filter(([far]) => Number.isFinite(far)).map(([, i]) => i));
    return here.closest;
  };
  const ownPair = (sample) => pairsOf(sample).find((pair) => originalOf(pair) === data().variants[sample]);

  const element = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };

  // ---- list of samples -----------------------------------------------------------------------------------------
  const searchable = () => {
    const here = data();
    here.lower ??= here.variants.map((id) =>
      [id, ...[here.texts, TEXTS.originals].flatMap((all) => (all?.[id] ?? []).map(([, text]) => text))].join("\n").toLowerCase());
    return here.lower;
  };

  const FILTERS = {
    all: () => true,
    wrong: (i) => rank(i, full()) !== 1,
    verbatim: (i) => data().verbatim[i] === true,
    close: (i) => closest().has(i),
    component: (i) => rank(i, state.component) === 1 && rank(i, full()) !== 1,
  };

  // ---- groups: columns of the data besides the conversations ----------------------------------------------------
  const NONE_GIVEN = "(none)";
  const columnOf = (name, i) => DATA.columns[name][data().variants[i]] ?? NONE_GIVEN;
  // Which samples are of the chosen group; an option's value is [column, group] as JSON.
  const inGroup = () => {
    const [column, group] = JSON.parse($("group")?.value || "[]");
    return column === undefined ? () => true : (i) => columnOf(column, i) === group;
  };
  const fillGroups = () => {
    if (!$("group")) return;
    const kept = $("group").value, options = [element("option", { value: "" }, "all")];
    for (const column of DATA.groups) {
      const counts = new Map();
      data().variants.forEach((_, i) => counts.set(columnOf(column, i), (counts.get(columnOf(column, i)) ?? 0) + 1));
      const sorted = [...counts].sort(([a, n], [b, m]) => (a === NONE_GIVEN) - (b === NONE_GIVEN) || m - n || a.localeCompare(b));
      options.push(element("optgroup", { label: column },
        ...sorted.map(([group, n]) => element("option", { value: JSON.stringify([column, group]) }, `${group} (${n})`))));
    }
    $("group").replaceChildren(...options);
    $("group").value = kept;
    if ($("group").selectedIndex < 0) $("group").value = "";
  };
  const renderColumns = () => {
    const id = data().variants[state.sample];
    const said = Object.entries(DATA.columns).flatMap(([name, values]) => (id in values ? [`${name}: ${values[id]}`] : []));
    $("columns").textContent = said.join(" · ");
    $("columns").hidden = !said.length;
  };

  const list = () => {
    const here = data(), wanted = $("search").value.trim().toLowerCase();
    let found = here.variants.map((_, i) => i);
    if (wanted) {
      const exact = here.variants.findIndex((id) => id.toLowerCase() === wanted);
      const texts = searchable();
      found = found.filter((i) => texts[i].includes(wanted));
      // The sample with exactly this id comes first: lima_1 is also a part of lima_10.
      if (exact >= 0) found = [exact, ...found.filter((i) => i !== exact)];
    } else {
      const far = (i) => here.divergence_rank[i] ?? Infinity;
      const wrong = (i, component) => (rank(i, component) === 1 ? 1 : 0);
      const order = $("order").value;
      if (order === "divergent") found.sort((a, b) => far(a) - far(b));
      if (order === "wrong") found.sort((a, b) => wrong(a, full()) - wrong(b, full()) || far(a) - far(b));
      if (order === "chosen") {
        const c = state.component;
        found.sort((a, b) => wrong(a, c) - wrong(b, c) || far(a) - far(b));
      }
    }
    const passes = FILTERS[$("filter").value], belongs = inGroup();
    state.listed = found.filter((i) => passes(i) && belongs(i) && Brushing.passes(i));
    state.limit = PAGE;
    renderList();
  };

  const item = (i) => {
    const here = data(), id = here.variants[i], right = rank(i, full()) === 1;
    const gap = here.divergence[i];
    const badge = element("span", { className: right ? "badge" : "badge wrong" });
    badge.textContent = (right ? "" : "✗ wrong ") + (gap === null ? "" : `Δ ${gap.toFixed(2)}`);
    badge.title = (right ? "" : "Wrong under the full gradient. ") + "Δ: best component minus full gradient, absolute";
    const text = here.texts?.[id]?.find(([role]) => role === "user" || role === "text")?.[1] ?? "";
    const node = element("li", { id: `sample-${i}` }, badge, id, element("span", { className: "snippet" }, text.slice(0, 120)));
    node.setAttribute("role", "option");
    node.setAttribute("aria-selected", String(i === state.sample));
    node.addEventListener("click", () => chooseSample(i));
    return node;
  };

  // ---- samples that the page does not hold ----------------------------------------------------------------------
  const isPart = () => data().variants.length < data().of;
  // What was told of further samples becomes a part of the page.
  const take = (setting, told) => {
    const more = opened(told.data.settings[setting], setting), here = load(setting);
    for (const side of ["texts", "pairs"]) {
      if (!told.data.tokens[setting]) break;
      const known = (DATA.tokens[setting] ??= { texts: { variant: {}, original: {} }, pairs: {} })[side];
      for (const [name, one] of Object.entries(told.data.tokens[setting][side])) known[name] = { ...known[name], ...one };
    }
    for (const [name, values] of Object.entries(told.data.columns)) DATA.columns[name] = { ...DATA.columns[name], ...values };
    TEXTS.originals = { ...TEXTS.originals, ...told.texts.originals };
    TEXTS.variants[setting] = { ...TEXTS.variants[setting], ...told.texts.variants[setting] };
    open[setting] = { ...Asked.merged(here, more), texts: TEXTS.variants[setting], lower: null, margins: undefined, closest: undefined };
  };
  // Has the server find what is wanted among all samples, and says how that goes; whether the page has more now.
  const ask = async (setting, wanted) => {
    if (!wanted || !isPart() || !Asked.isServed()) return false;
    const before = data().variants.length;
    $("part").textContent = "Asking the server for the samples that this page does not hold …";
    try {
      take(setting, await Asked.find(setting, wanted, data().products));
      tellPart();
    } catch (error) {
      $("part").textContent = error instanceof TypeError ? "The server does not answer; the page's own samples are listed." : error.message;
    }
    return data().variants.length > before;
  };
  const tellPart = () => {
    $("part").hidden = !isPart();
    if (!isPart()) return;
    const where = Asked.isServed() ? "are asked of its server when you search for their id or text"
      : "are found by id or text where the report is served (gradsim ui)";
    $("part").textContent = `This page holds ${data().variants.length} of ${data().of} samples: those that the full gradient decides wrongly, `
      + `and where it diverges most from the best component. All others ${where}. All other figures are of all samples.`;
  };

  const renderList = () => {
    const part = state.listed.slice(0, state.limit);
    $("samples").replaceChildren(...part.map(item));
    if (state.listed.length > state.limit) {
      const more = element("li", { role: "option", ariaSelected: "false" }, `${state.listed.length - state.limit} more …`);
      more.addEventListener("click", () => { state.limit += PAGE; renderList(); });
      $("samples").append(more);
    }
    const wrong = state.listed.filter((i) => rank(i, full()) !== 1).length;
    $("found").textContent =
      `${state.listed.length} of ${data().variants.length} samples, ${wrong} of them wrong under the full gradient.`;
    markSelected(false);
  };

  const markSelected = (scroll) => {
    for (const node of $("samples").querySelectorAll('[aria-selected="true"]')) node.setAttribute("aria-selected", "false");
    const node = $(`sample-${state.sample}`);
    if (!node) return $("samples").removeAttribute("aria-activedescendant");
    node.setAttribute("aria-selected", "true");
    $("samples").setAttribute("aria-activedescendant", node.id);
    // A page that has just opened stays at its top.
    if (scroll && touched) node.scrollIntoView({ block: "nearest" });
  };

  // ---- one sample ----------------------------------------------------------------------------------------------
  const chooseSample = (i) => {
    state.sample = i;
    state.candidate = i < 0 ? undefined : (ownPair(i) ?? pairsOf(i)[0]);
    const place = state.listed.indexOf(i);
    if (place >= state.limit) { state.limit = place + PAGE; renderList(); }
    markSelected(true);
    renderSample();
  };

  const chooseComponent = (component) => {
    state.component = component;
    $("component").value = String(component);
    if ($("order").value === "chosen" || $("filter").value === "component") list();
    Brushing.draw();
    renderSample();
  };

  const verdict = (component) => {
    const place = rank(state.sample, component), count = data().counts[state.sample];
    if (place === 1) return ["right", "first"];
    return ["wrong", place === 0 ? "no similarity with the own original" : `rank ${place} of ${count}`];
  };

  const renderSample = () => {
    $("sample").hidden = state.sample < 0;
    if (state.sample < 0) return;
    const here = data(), id = here.variants[state.sample], chosen = here.names[state.component];
    $("sample-id").textContent = id;
    const said = [[STYLE.full_gradient, full()], [STYLE.best_component, here.best], [chosen, state.component]];
    const parts = said.filter(([, c], n) => c >= 0 && (n < 2 || (c !== full() && c !== here.best))).map(([name, c]) => {
      const [right, text] = verdict(c);
      return element("span", { className: right }, `${name}: ${text}`);
    });
    const ahead = margin(state.sample);
    if (ahead !== null) {
      const title = "Own original less the best of the others, under the full gradient; below 0 the decision is wrong.";
      parts.push(element("span", { title }, `margin ${ahead < 0 ? "−" : "+"}${Math.abs(ahead).toFixed(4)}`));
    }
    if (here.overlap[state.sample]) parts.push(element("span", {}, here.overlap[state.sample]));
    $("verdict").replaceChildren(...parts.flatMap((part, n) => (n ? [" · ", part] : [part])));
    renderColumns();
    renderCandidates(chosen);
    renderTexts();
    renderCurves();
    share();
  };

  // ---- the address: #setting/sample/component ------------------------------------------------------------------
  const short = (name) => name.replace(/^model\./, "").replace(/\.weight$/, "");
  const share = () => {
    // Who has just opened the page shares it as it was opened.
    if (!touched) return;
    const here = data(), parts = [state.setting, here.variants[state.sample], short(here.names[state.component])];
    history.replaceState(null, "", `#${parts.map(encodeURIComponent).join("/")}`);
  };

  // Opens a sample whatever the list was narrowed to, and a component where one is named.
  const openSample = (setting, sample, component) => {
    $("search").value = "";
    $("filter").value = "all";
    if ($("group")) $("group").value = "";
    openSetting(setting);
    const here = data(), place = here.names.findIndex((name) => component && (name === component || short(name) === component));
    if (place >= 0) chooseComponent(place);
    const found = here.variants.indexOf(sample);
    const none = () => { $("found").textContent = `There is no sample ${sample} with ${$("setting").selectedOptions[0].text} variants in this report.`; };
    if (found >= 0) chooseSample(found);
    else if (isPart() && Asked.isServed()) {
      ask(setting, sample).then(() => {
        const now = open[setting].variants.indexOf(sample);
        if (now < 0) return none();
        list();
        return chooseSample(now);
      });
    } else none();
    $("explorer").scrollIntoView();
  };

  // A variant beside one of its candidates, or beside its own original where the page leaves that candidate out.
  const openPair = (setting, variant, original) => {
    openSample(setting, variant);
    const pair = pairsOf(state.sample).find((one) => originalOf(one) === original);
    if (pair !== undefined) { state.candidate = pair; renderSample(); }
  };

  // Opens what an address names; false where it names something else, such as a section of the page.
  const openAddress = () => {
    const [setting, sample, component] = location.hash.slice(1).split("/").map((part) => {
      try { return decodeURIComponent(part); } catch { return ""; }
    });
    if (!Object.hasOwn(DATA.settings, setting) || sample === undefined) return false;
    openSample(setting, sample, component);
    return true;
  };

  const renderCandidates = (chosen) => {
    const here = data(), pairs = pairsOf(state.sample), columns = [full(), here.best, state.component];
    $("chosen-head").textContent = chosen;
    const best = columns.map((c) => (c < 0 ? null : Math.max(...pairs.map((pair) => cosine(pair, c) ?? -2))));
    const rows = pairs.map((pair) => {
      const original = originalOf(pair), own = original === here.variants[state.sample];
      const button = element("button", { type: "button" }, original + (own ? " (own)" : ""));
      const score = here.bm25Score?.[pair];
      const place = element("td", {}, here.bm25Rank[pair] ? String(here.bm25Rank[pair]) : "–", score === 0 ? " (score 0)" : "");
      if (Number.isFinite(score)) place.title = `BM25 score ${score.toFixed(3)}`;
      const row = element("tr", { className: own ? "own" : "" }, place, element("td", {}, button));
      columns.forEach((c, n) => {
        const value = c < 0 ? null : cosine(pair, c);
        row.append(element("td", { className: value !== null && value === best[n] ? "top" : "" }, shown(value)));
      });
      const mark = (read) => (read ? row.setAttribute("aria-current", "true") : row.removeAttribute("aria-current"));
      mark(pair === state.candidate);
      row.addEventListener("click", () => {
        state.candidate = pair;
        renderTexts();
        for (const other of row.parentNode.children) other.removeAttribute("aria-current");
        mark(true);
      });
      return row;
    });
    $("candidates").tBodies[0].replaceChildren(...rows);
    const hidden = here.counts[state.sample] - pairs.length;
    $("candidates").caption.textContent =
      "Candidates (▲ highest; choose one to read it beside the variant)" + (hidden > 0 ? `; ${hidden} less similar ones left out` : "");
  };

  const message = (role, text, ...shown) => {
    const head = element("div", { className: "role" }, element("b", {}, role), Texts.button("copy", () => text, `Copy this text of the ${role}`));
    const node = element("div", { className: `message ${role}`, tabIndex: 0 }, head, ...shown);
    node.setAttribute("role", "group");
    node.setAttribute("aria-label", role);
    return node;
  };
  // Turns are compared with those at the same place of the other text, where they are of the same role.
  const asRead = (text) => ($("reading").value === "rendered" && Rendered.isReady() ? Rendered.node(text) : element("div", { className: "raw" }, text));
  const messages = (texts, others, side, kind, marked) =>
    texts ? texts.map(([role, own], n) => {
      const other = others?.[n]?.[0] === role ? others[n][1] : undefined, node = asRead(own);
      // Words that the other one lacks are marked, unless the text stands alone or is too long.
      if (marked !== "nothing" && other !== undefined) Texts.mark(node, asRead(other), side, kind);
      return message(role, own, node);
    }) : [element("p", { className: "help" }, "This report holds no text for it.")];

  const renderTexts = () => {
    const id = data().variants[state.sample];
    const original = state.candidate === undefined ? id : originalOf(state.candidate);
    const texts = [TEXTS.originals?.[original], data().texts?.[id]];
    $("original-head").textContent = original === id ? `Original ${id}` : `Candidate ${original}`;
    const marked = marking(), nodes = { original: $("original-text"), variant: $("variant-text") };
    const told = marked === "tokens" ? Tokens.pair(DATA.tokens[state.setting], id, original, { original: texts[0], variant: texts[1] }) : null;
    $("reading").disabled = Boolean(told); // tokens are cut out of raw texts
    if (told) {
      for (const [side, node] of Object.entries(nodes)) {
        node.replaceChildren(...told[side].texts.map((part) => message(part.role, part.text, ...Tokens.spans(told[side], part))),
          element("p", { className: "help" }, Tokens.strongest(told[side])));
      }
      Tokens.follow(told, nodes, $("token-said"));
    } else {
      nodes.original.replaceChildren(...messages(texts[0], texts[1], 0, "del", marked));
      nodes.variant.replaceChildren(...messages(texts[1], texts[0], 1, "ins", marked));
      Tokens.unfollow(nodes);
    }
    if (!$("token-help")) return;
    $("token-help").hidden = $("token-said").hidden = !told;
    $("token-lacking").hidden = marked !== "tokens" || Boolean(told);
  };
  // What texts are marked by: a list where the report knows of tokens, a box for words where it does not.
  const marking = () => $("marked")?.value ?? ($("differences").checked ? "words" : "nothing");

  const axis = (title) => ({ title: { text: title }, gridcolor: STYLE.grid, linecolor: STYLE.axis, zeroline: false, automargin: true, ticks: "outside" });
  const layout = (height) => ({
    height, paper_bgcolor: "white", plot_bgcolor: "white", margin: { l: 60, r: 15, t: 10, b: 45 }, font: { family: "system-ui, sans-serif", size: 13, color: STYLE.ink },
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0, font: { size: 12 } }, hovermode: "closest", dragmode: false,
    xaxis: axis(STYLE.depth), yaxis: axis(STYLE.similarity),
  });

  // Components outside the blocks stand before the first block or after the last, as they do in the model.
  const placed = () => {
    const all = data().components.map((c, place) => ({ ...c, place }));
    const inside = all.filter((c) => c.depth !== null), last = Math.max(0, ...inside.map((c) => c.depth));
    const first = inside[0]?.place ?? 0;
    for (const c of all) c.x = c.depth ?? (c.place < first ? -1 : last + 1);
    const every = Math.max(1, Math.ceil(last / 12));
    const ticks = inside.length ? [...Array(last + 1).keys()].filter((d) => d % every === 0) : [];
    const labels = ticks.map(String);
    if (all.some((c) => c.x < 0)) { ticks.unshift(-1); labels.unshift("in"); }
    if (all.some((c) => c.x > last)) { ticks.push(last + 1); labels.push("out"); }
    return { all, inside, last, axis: { tickvals: ticks, ticktext: labels, range: [-1.5, last + 1.5] } };
  };

  const renderCurves = () => {
    if (!window.Plotly || state.sample < 0) return;
    const here = data(), own = ownPair(state.sample), { all, inside, last, axis: ticks } = placed();
    const traces = [];
    if (own !== undefined) {
      for (const [family, { name, colour, symbol }] of Object.entries(STYLE.families)) {
        const part = all.filter((c) => c.family === family);
        if (!part.length) continue;
        traces.push({
          x: part.map((c) => c.x),
          y: part.map((c) => cosine(own, c.place)),
          customdata: part.map((c) => c.place), text: part.map((c) => c.component), type: "scatter", mode: "markers",
          marker: { color: colour, symbol, size: 6 }, name,
          hovertemplate: "%{text}<br>%{y:.4f}<extra></extra>",
        });
      }
      const level = cosine(own, full());
      traces.push({ x: [-1, last + 1], y: [level, level], type: "scatter", mode: "lines", name: STYLE.full_gradient,
        line: { color: STYLE.ink, dash: "dash", width: 1.5 }, hoverinfo: "skip" });
      if (all[state.component]) {
        traces.push({
          x: [all[state.component].x], y: [cosine(own, state.component)], type: "scatter", mode: "markers", name: "chosen",
          marker: { symbol: "circle-open", size: 16, color: STYLE.ink, line: { width: 2 } }, hoverinfo: "skip",
        });
      }
    }
    const wide = layout(400);
    Object.assign(wide.xaxis, ticks);
    $("all-components").dataset.name = `${state.setting}-${here.variants[state.sample]}-components`;
    Figures.show($("all-components"), traces, wide);
    renderType(inside);
  };

  const renderType = (inside) => {
    const here = data(), chosen = here.components[state.component];
    const kind = chosen?.component_type ?? here.components[here.best]?.component_type;
    const part = inside.filter((c) => c.component_type === kind);
    $("type-head").hidden = part.length < 2;
    $("type-head").textContent = part.length > 1 ? `${kind}: all candidates over depth` : "";
    $("one-type").hidden = part.length < 2;
    if (part.length < 2) return;
    const traces = pairsOf(state.sample).map((pair) => {
      const own = originalOf(pair) === here.variants[state.sample];
      return {
        x: part.map((c) => c.depth), y: part.map((c) => cosine(pair, c.place)), type: "scatter",
        mode: own ? "lines+markers" : "lines", name: originalOf(pair) + (own ? " (own)" : ""),
        line: own ? { color: STYLE.cycle[0], width: 3 } : { width: 1.3, dash: "dot" },
        hovertemplate: `${originalOf(pair)}, block %{x}<br>%{y:.4f}<extra></extra>`,
      };
    });
    const colours = STYLE.cycle.slice(1);
    traces.filter((t) => !t.line.color).forEach((t, n) => { t.line.color = colours[n % colours.length]; });
    const narrow = layout(360), last = Math.max(...part.map((c) => c.depth));
    Object.assign(narrow.xaxis, { tick0: 0, dtick: Math.max(1, Math.ceil(last / 12)) });
    $("one-type").dataset.name = `${state.setting}-${here.variants[state.sample]}-${kind}`;
    Figures.show($("one-type"), traces, narrow);
  };

  // ---- controls ------------------------------------------------------------------------------------------------
  const fillComponents = () => {
    const here = data(), groups = new Map();
    here.components.forEach((c, place) => {
      const label = c.depth === null ? "outside the blocks" : `block ${c.depth}`;
      if (!groups.has(label)) groups.set(label, element("optgroup", { label }));
      groups.get(label).append(element("option", { value: String(place) }, c.component));
    });
    $("component").replaceChildren(element("option", { value: String(full()) }, "full_gradient"), ...groups.values());
  };

  const openSetting = (setting) => {
    const before = state.setting && data().variants[state.sample];
    const component = state.setting && data().names[state.component];
    state.setting = setting;
    $("setting").value = setting;
    const here = load(setting);
    fillComponents();
    fillGroups();
    Brushing.forget();
    tellPart();
    const kept = here.names.indexOf(component);
    state.component = kept >= 0 ? kept : here.best >= 0 ? here.best : full();
    $("component").value = String(state.component);
    list();
    Brushing.draw();
    const again = here.variants.indexOf(before);
    chooseSample(again >= 0 ? again : (state.listed[0] ?? -1));
  };

  const step = (by) => {
    const place = state.listed.indexOf(state.sample) + by;
    if (place >= 0 && place < state.listed.length) chooseSample(state.listed[place]);
  };

  const start = () => {
    Brushing.start({
      margins, layout, axis, name: (i) => data().variants[i], component: () => state.component, setting: () => state.setting, show: Figures.show,
      colours: STYLE.cycle, words: STYLE.margins, touch: window.matchMedia("(pointer: coarse)").matches,
      open: chooseSample, changed: () => { list(); if (!state.listed.includes(state.sample)) chooseSample(state.listed[0] ?? -1); },
    });
    $("setting").addEventListener("change", (event) => openSetting(event.target.value));
    $("component").addEventListener("change", (event) => chooseComponent(Number(event.target.value)));
    for (const name of ["order", "filter", "group"]) {
      $(name)?.addEventListener("change", () => { list(); chooseSample(state.listed[0] ?? -1); });
    }
    for (const switched of [$("marked") ?? $("differences"), $("reading")]) switched.addEventListener("change", renderTexts);
    window.addEventListener("hashchange", openAddress);
    let timer = 0;
    const search = async () => {
      timer = 0;
      const setting = state.setting, wanted = $("search").value.trim();
      const show = () => { list(); if (state.listed.length) chooseSample(state.listed[0]); };
      show();
      const isNew = await ask(setting, wanted);
      if (isNew && state.setting === setting && $("search").value.trim() === wanted) { show(); Brushing.draw(); }
    };
    $("search").addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(search, 120);
    });
    $("search").addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown" || event.key === "Enter") {
        event.preventDefault();
        // Who types faster than the list follows must not be thrown back to its first sample afterwards.
        if (timer) { clearTimeout(timer); search(); }
        $("samples").focus();
      }
      if (event.key === "Escape") { event.target.value = ""; event.target.dispatchEvent(new Event("input")); }
    });
    $("samples").addEventListener("keydown", (event) => {
      const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 };
      if (event.key in moves) { event.preventDefault(); step(moves[event.key]); }
      if (event.key === "Home" && state.listed.length) { event.preventDefault(); chooseSample(state.listed[0]); }
      if (event.key === "End" && state.listed.length) { event.preventDefault(); chooseSample(state.listed.at(-1)); }
    });
    document.addEventListener("keydown", (event) => {
      if (/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "/") { event.preventDefault(); $("search").focus(); }
      if (event.key === "[" && state.component > 0) chooseComponent(state.component - 1);
      if (event.key === "]" && state.component < full()) chooseComponent(state.component + 1);
    });
    if (!openAddress()) openSetting($("setting").value);
    Tables.start();
    $("cite-copy").replaceWith(Texts.button("copy", () => $("cite-text").textContent, "Copy the entry"));
    // A report that was opened as a file has no front page beside it.
    $("all-models").hidden = !location.protocol.startsWith("http");
    document.body.dataset.ready = "yes";
    setTimeout(startLibraries, 30);
  };

  const startLibraries = async () => {
    await Promise.all([Rendered.load(), Figures.start(STYLE.darkened, followClicks, () => { renderCurves(); Brushing.again(); })]);
    Brushing.draw();
    if (state.sample >= 0) renderTexts();
    if (state.sample >= 0) {
      renderCurves();
      $("all-components").on("plotly_click", (event) => {
        const place = event.points[0].customdata;
        if (typeof place === "number") chooseComponent(place);
      });
    }
    document.body.dataset.plots = "yes";
  };
  start();
})();
