"use strict";
// Texts as they are meant to be read: Markdown, code in colours, formulas. Three things stand between a text and the page: Markdown
// is read without HTML, what comes out is cleaned of all but a few harmless elements, and the page's policy runs no script of theirs.
const Rendered = (() => {
  // Pictures would be fetched; forms, styles and names would reach into the page.
  const CLEAN = {
    USE_PROFILES: { html: true, mathMl: true }, RETURN_DOM_FRAGMENT: true, ALLOW_DATA_ATTR: false, ALLOW_ARIA_ATTR: false, ADD_ATTR: ["target"],
    FORBID_TAGS: ["img", "picture", "source", "audio", "video", "track", "map", "area", "form", "input", "button", "select", "textarea", "style", "dialog"],
    FORBID_ATTR: ["id", "name"],
  };
  // Limits of TeX's macros and of sizes (in em), so that a short formula cannot fill the page or take forever.
  const TEX = { throwOnError: true, trust: false, strict: false, maxExpand: 500, maxSize: [20, 20] };
  let libraries = null, markdown = null;

  // The plugin knows formulas in a line and formulas of whole lines; one that is set off stands in the middle of a line, too.
  const setOff = (render) => (state, silent) => {
    const ends = { "$$": "$$", "\\[": "\\]" }[state.src.slice(state.pos, state.pos + 2)];
    const end = ends ? state.src.indexOf(ends, state.pos + 3) : -1;
    if (end < 0 || end > state.posMax) return false;
    if (!silent) state.push("html_inline", "", 0).content = render(state.src.slice(state.pos + 2, end), true);
    state.pos = end + 2;
    return true;
  };

  const make = ({ hljs, markdownit, temml, tex }) => {
    const md = markdownit({
      html: false, linkify: false, breaks: true,
      highlight: (code, language) => (hljs.getLanguage(language) ? hljs.highlight(code, { language, ignoreIllegals: true }).value : ""),
    });
    md.disable("image");
    const escaped = md.utils.escapeHtml;
    const formula = (content, displayMode) => {
      try {
        return temml.renderToString(content, { ...TEX, displayMode });
      } catch {
        return `<code>${escaped(content)}</code>`; // no formula: shown as it was written
      }
    };
    // A line that only begins with a formula is taken for one as a whole by the plugin: it is read again as a line of text.
    const render = (content, displayMode) =>
      (displayMode && content.includes("$$") ? `<p>${md.renderInline(`$$${content.trim()}`)}</p>` : formula(content, displayMode));
    md.use(tex, { delimiters: "all", render });
    md.inline.ruler.before("escape", "set_off_formula", setOff(formula));
    // Headings of a text are no headings of the page.
    md.renderer.rules.heading_open = (tokens, i) => `<p class="heading ${tokens[i].tag}">`;
    md.renderer.rules.heading_close = () => "</p>\n";
    md.renderer.rules.link_open = (tokens, i, options, env, self) => {
      tokens[i].attrSet("target", "_blank");
      tokens[i].attrSet("rel", "noopener noreferrer nofollow");
      return self.renderToken(tokens, i, options);
    };
    return md;
  };

  // Until the library is there texts are shown raw; `load` resolves when it is.
  const load = async () => {
    await Packed.run("texts");
    libraries = globalThis.TextLibraries;
    markdown ??= make(libraries);
  };
  const isReady = () => markdown !== null;

  const node = (text) => {
    const block = Object.assign(document.createElement("div"), { className: "rendered" });
    block.append(libraries.DOMPurify.sanitize(markdown.render(text), CLEAN));
    return block;
  };

  return { isReady, load, node };
})();
