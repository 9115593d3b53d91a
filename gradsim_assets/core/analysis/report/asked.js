"use strict";
// Samples that the page does not hold, asked of the server that it came from.
const Asked = (() => {
  const ARRAYS = ["original", "bm25Rank", "bm25Score", "similarity", "ranks"];
  const isServed = () => location.protocol.startsWith("http");

  // What the server finds by an id or a text, as the page's own data and texts are; throws what it says where it refuses.
  const find = async (setting, wanted, products) => {
    const model = location.pathname.split("/").at(-2), asked = new URLSearchParams({ find: wanted, products: products ?? "" });
    const answer = await fetch(`../../api/reports/${model}/${setting}?${asked}`);
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error ?? "The server does not find samples.");
    return told;
  };

  const joined = (first, second) => {
    if (first === null || second === null) return null;
    const both = new first.constructor(first.length + second.length);
    both.set(first);
    both.set(second, first.length);
    return both;
  };

  // One opened setting with the samples of another behind its own; samples that it has already are left out.
  const merged = (here, more) => {
    const known = new Set(here.variants), fresh = more.variants.map((_, i) => i).filter((i) => !known.has(more.variants[i]));
    const places = new Map(here.originals.map((name, n) => [name, n])), originals = [...here.originals];
    const place = (name) => {
      if (!places.has(name)) places.set(name, originals.push(name) - 1);
      return places.get(name);
    };
    const pairs = fresh.flatMap((i) => Array.from({ length: more.starts[i + 1] - more.starts[i] }, (_, n) => more.starts[i] + n));
    const rows = (array, width, which) => array && array.constructor.from(which.flatMap((n) => [...array.subarray(n * width, (n + 1) * width)]));
    const found = {
      ...more,
      original: Uint32Array.from(pairs, (pair) => place(more.originals[more.original[pair]])),
      bm25Rank: rows(more.bm25Rank, 1, pairs),
      bm25Score: rows(more.bm25Score, 1, pairs),
      similarity: rows(more.similarity, more.width, pairs),
      ranks: rows(more.ranks, more.width, fresh),
    };
    const last = here.starts.at(-1), starts = [...here.starts];
    for (const i of fresh) starts.push(starts.at(-1) + more.starts[i + 1] - more.starts[i]);
    const lists = ["variants", "counts", "divergence", "divergence_rank", "overlap", "verbatim"];
    return {
      ...here,
      ...Object.fromEntries(ARRAYS.map((name) => [name, joined(here[name], found[name])])),
      ...Object.fromEntries(lists.map((name) => [name, [...here[name], ...fresh.map((i) => more[name][i])]])),
      originals, starts,
    };
  };

  return { isServed, find, merged };
})();
