"use strict";
// Texts of the page that sets two models side by side: read as they were meant, words that differ marked. Without scripts it is raw.
const Packed = {
  run: (name) => new Promise((done, failed) => {
    document.head.append(Object.assign(document.createElement("script"), { src: `/scripts/library-${name}.js`, onload: done, onerror: failed }));
  }),
};
(async () => {
  const form = document.getElementById("chosen"), raw = document.getElementById("raw");
  form.addEventListener("change", (event) => { if (event.target.name) form.requestSubmit(); });

  const sources = [...document.querySelectorAll("[data-text]")].map((node) => ({ node, text: node.textContent }));
  const read = (text) => (raw.checked || !Rendered.isReady() ? Object.assign(document.createElement("div"), { textContent: text }) : Rendered.node(text));
  const show = () => {
    for (const side of document.querySelectorAll(".side")) {
      const own = sources.filter(({ node }) => side.contains(node));
      for (const kind of ["del", "ins"]) {
        const [these, others] = [kind, kind === "del" ? "ins" : "del"].map((one) => own.filter(({ node }) => node.dataset.text === one));
        these.forEach(({ node, text }, n) => {
          const block = read(text), other = others[n];
          if (other && other.node.dataset.role === node.dataset.role) Texts.mark(block, read(other.text), kind === "ins" ? 1 : 0, kind);
          node.replaceChildren(block);
        });
      }
    }
  };
  raw.addEventListener("change", show);
  show();
  await Rendered.load();
  show();
  document.body.dataset.read = "yes";
})();
