"use strict";
// What the page holds packed (gzip in base64): data, and libraries, which are run when they are first asked for.
const Packed = (() => {
  const bytes = (text) => {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const binary = atob(text), found = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) found[i] = binary.charCodeAt(i);
    return found;
  };

  const text = (id) => {
    const packed = new Blob([bytes(document.getElementById(id).textContent)]);
    return new Response(packed.stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };
  const json = async (id) => JSON.parse(await text(id));

  const running = {};
  const run = (name) => (running[name] ??= text(`library-${name}`).then((source) => {
    // The page's policy names this very source; nothing else may run here.
    document.head.append(Object.assign(document.createElement("script"), { textContent: source }));
  }));

  return { json, run };
})();
