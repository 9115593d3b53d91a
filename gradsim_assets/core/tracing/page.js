"use strict";
// Texts are set as text everywhere: nothing of them is ever read as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const rows = document.querySelector("#originals tbody");

const figure = (value, digits) => (value === null ? "–" : value.toFixed(digits));
const share = (value) => (value === null ? "–" : `${Math.round(100 * value)} %`);

function draw(target, tokens) {
  const total = tokens.reduce((sum, token) => sum + token[2], 0);
  const largest = Math.max(...tokens.map((token) => Math.abs(token[2])), 1e-300);
  target.replaceChildren(...tokens.map(([text, counted, contribution]) => {
    const span = document.createElement("span");
    span.textContent = text;
    if (counted) {
      span.className = "counted";
      const side = contribution > 0 ? "--for" : "--against";
      span.style.background = `rgba(var(${side}), ${(0.6 * Math.abs(contribution) / largest).toFixed(3)})`;
      span.title = `${(100 * contribution / Math.abs(total || 1)).toFixed(1)} % of the product`;
    }
    return span;
  }));
}

function plain(target, user, assistant) {
  target.replaceChildren(...[["user", user], ["assistant", assistant]].map(([role, text]) => {
    const part = document.createElement("p"), head = document.createElement("b");
    head.textContent = role;
    part.append(head, text);
    return part;
  }));
}

function choose(place) {
  const original = data.originals[place];
  [...rows.children].forEach((row, i) => row.setAttribute("aria-selected", String(i === place)));
  document.getElementById("chosen").textContent = `${original.original_id}, rank ${original.rank}`;
  document.getElementById("unsplit").textContent = original.tokens ? "" : "Its tokens were not split: only those of the best few are.";
  const traced = document.getElementById("traced"), text = document.getElementById("original");
  if (original.tokens) {
    draw(traced, original.tokens.answer);
    draw(text, original.tokens.original);
  } else {
    plain(traced, data.prompt, data.answer);
    plain(text, original.user, original.assistant);
  }
  history.replaceState(null, "", `#${encodeURIComponent(original.original_id)}`);
}

data.originals.forEach((original, place) => {
  const row = document.createElement("tr");
  const cells = [
    original.rank, null, figure(original.similarity, 4), share(original.answer_share), figure(original.text_overlap, 0),
    original.bm25_rank, ...data.families.map((name) => figure(original[name], 3)),
  ];
  cells.forEach((value, column) => {
    const cell = document.createElement("td");
    if (column === 1) {
      const button = document.createElement("button");
      button.textContent = original.original_id;
      const asked = document.createElement("small");
      asked.textContent = original.user;
      cell.append(button, asked);
    } else cell.textContent = value;
    row.append(cell);
  });
  row.addEventListener("click", () => choose(place));
  rows.append(row);
});

if (data.originals.length) {
  const wanted = decodeURIComponent(location.hash.slice(1));
  choose(Math.max(0, data.originals.findIndex((original) => original.original_id === wanted)));
}
