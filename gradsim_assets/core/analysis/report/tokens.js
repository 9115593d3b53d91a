"use strict";
// Tokens of two texts by what they make up of the product of their gradients. Texts are set as text: nothing of them is ever HTML.
const Tokens = (() => {
  const SCALE = 32767;
  const STRONG = 0.2; // parts of the largest contribution, from which a token is underlined
  const LISTED = 5;
  const OTHER = { variant: "original", original: "variant" };

  const unpack = (text, Type) => {
    const binary = atob(text), bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
    return new Type(bytes.buffer); // little-endian, as every machine that runs a browser
  };

  // Both sides of a pair; null where the report has not told its tokens.
  const pair = (told, variant, original, messages) => {
    const found = told?.pairs[variant]?.[original];
    if (!found) return null;
    const side = (name, id) => {
      const { total, largest, parts, linked } = found[name];
      const texts = told.texts[name][id].map(([role, own, first, lengths], n) => ({ role, text: own ?? messages[name][n][1], first, lengths }));
      const words = new Map();
      for (const { text, first, lengths } of texts) {
        let at = 0;
        lengths.forEach((length, i) => { if (length) words.set(first + i, text.slice(at, at + length)); at += length; });
      }
      const values = Float64Array.from(unpack(parts, Int16Array), (part) => part * largest / SCALE);
      return { name, total, largest, values, linked: unpack(linked, Uint16Array), texts, words };
    };
    return { variant: side("variant", variant), original: side("original", original) };
  };

  const share = (side, value) => {
    const percent = 100 * value / Math.abs(side.total || side.largest || 1);
    return `${percent < 0 ? "−" : "+"}${Math.abs(percent).toFixed(1)} %`;
  };
  const quoted = (text) => `“${text.trim() || text.replaceAll("\n", "⏎").replaceAll(" ", "␣")}”`;
  const sentence = (both, side, token) => {
    const other = both[OTHER[side.name]], link = other.words.get(side.linked[token]);
    const tied = link === undefined ? "" : `; most in common with ${quoted(link)} of the ${other.name}`;
    return `${quoted(side.words.get(token))} of the ${side.name}: ${share(side, side.values[token])} of the product${tied}`;
  };

  // The spans of one message.
  const spans = (side, { text, first, lengths }) => {
    let at = 0;
    return lengths.map((length, i) => {
      const span = document.createElement("span"), token = first + i, value = side.values[token];
      span.textContent = text.slice(at, at + length);
      at += length;
      const strength = side.largest ? Math.abs(value) / side.largest : 0;
      span.className = `token${strength >= STRONG ? (value > 0 ? " for" : " against") : ""}`;
      span.dataset.token = String(token);
      span.style.setProperty("--strength", (0.6 * strength).toFixed(3));
      span.style.setProperty("--side", value > 0 ? "var(--for)" : "var(--against)");
      span.title = `${share(side, value)} of the product`;
      return span;
    }).filter((span) => span.textContent);
  };

  // The strongest tokens with their numbers, and what stands in no message.
  const strongest = (side) => {
    const order = [...side.words.keys()].sort((a, b) => Math.abs(side.values[b]) - Math.abs(side.values[a])).slice(0, LISTED);
    const shown = [...side.words.keys()].reduce((sum, token) => sum + side.values[token], 0);
    const items = order.map((token) => `${quoted(side.words.get(token))} ${share(side, side.values[token])}`);
    return `Most: ${items.join(", ")}. Tokens of the template: ${share(side, side.total - shown)}.`;
  };

  // Pointing at a token, or going through a text by the arrow keys, tells of it and of what it is linked with.
  const follow = (both, nodes, status) => {
    const span = (side, token) => nodes[side].querySelector(`[data-token="${token}"]`);
    const clear = () => {
      for (const node of Object.values(nodes)) for (const one of node.querySelectorAll(".here, .linked")) one.classList.remove("here", "linked");
    };
    const tell = (side, node) => {
      clear();
      const token = Number(node.dataset.token);
      node.classList.add("here");
      span(OTHER[side], both[side].linked[token])?.classList.add("linked");
      status.textContent = sentence(both, both[side], token);
    };
    for (const side of ["variant", "original"]) {
      const node = nodes[side];
      node.onpointerover = node.onclick = (event) => { if (event.target.dataset.token) tell(side, event.target); };
      node.onkeydown = (event) => {
        const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!by) return;
        event.preventDefault();
        const all = [...node.querySelectorAll(".token")], place = all.findIndex((one) => one.classList.contains("here"));
        const first = all.indexOf(event.target.closest(".message")?.querySelector(".token"));
        const next = all[place < 0 ? Math.max(0, first) : Math.min(all.length - 1, Math.max(0, place + by))];
        if (!next) return;
        tell(side, next);
        next.scrollIntoView({ block: "nearest" });
      };
    }
    status.textContent = "";
  };
  const unfollow = (nodes) => {
    for (const node of Object.values(nodes)) node.onpointerover = node.onclick = node.onkeydown = null;
  };

  return { unpack, pair, spans, strongest, follow, unfollow };
})();
